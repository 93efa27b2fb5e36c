"""The maths of one element, written once. `cpu.py` and `cuda.py` compile it; `reference.py` runs it as it stands."""

import numpy as np

__all__ = ["BITS", "MOST", "split"]

BITS = 3
"""Bits of a multiple."""

MOST = 1 << BITS
"""The largest multiple."""


def split(total: np.float32, tau: np.float32) -> tuple[int, np.float32]:
    """Split a finite `total`, whose magnitude reaches `tau`, into a multiple of `tau` and what is kept.

    The multiple is found bit by bit, by adding and comparing: sums of a `tau` of 21 significant bits at most are exact,
    or infinite, which nothing reaches. Kernels on a GPU must only add (`hvdspark_kernels.device`).

    Returns
    -------
    (multiple, remainder)
        The largest multiple up to `MOST` that is no larger than ``|total|``: the remainder, rounded once, never has the
        other sign.
    """
    magnitude = abs(total)
    two = tau + tau
    four = two + two
    multiple, taken = 1, tau
    if taken + four <= magnitude:
        multiple, taken = multiple + 4, taken + four
    if taken + two <= magnitude:
        multiple, taken = multiple + 2, taken + two
    if taken + tau <= magnitude:
        multiple, taken = multiple + 1, taken + tau
    return multiple, total - taken if total > 0 else total + taken
