"""The maths of one element, written once. `cpu.py` and `cuda.py` compile it; `reference.py` runs it as it stands."""

import numpy as np

__all__ = ["BITS", "MOST", "split"]

BITS = 3
"""Bits of a multiple."""

MOST = 1 << BITS
"""The largest multiple."""


def split(total: np.float32, tau: np.float32) -> tuple[int, np.float32]:
    """Split a finite `total`, whose magnitude reaches `tau`, into a multiple of `tau` and what is kept.

    A quotient of floats can be rounded up to the next whole number. So multiples are compared one by one: each is exact
    for a `tau` of 21 significant bits at most, or infinite, which nothing reaches.

    Returns
    -------
    (multiple, remainder)
        The largest multiple up to `MOST` that is no larger than ``|total|``: the remainder, rounded once, never has the
        other sign.
    """
    magnitude = abs(total)
    multiple, taken = 1, tau
    for _ in range(MOST - 1):
        more = taken + tau
        if more <= magnitude:
            multiple += 1
            taken = more
    return multiple, total - taken if total > 0 else total + taken
