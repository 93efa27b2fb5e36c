"""The maths of one element, written once. `cpu.py` and `cuda.py` compile it; `reference.py` runs it as it stands."""

import numpy as np

__all__ = ["outside", "quantise"]


def quantise(total: np.float32, tau: np.float32, step: np.float32) -> tuple[int, np.float32]:
    """Split a finite `total` into what is sent and what is kept.

    Returns
    -------
    (sign, remainder)
        A magnitude that reaches `tau` is sent: sign is 1 or -1, and `step` towards zero is taken off. Elsewhere sign is
        0 and all is kept. The remainder is rounded once, and exact wherever ``step <= |total| <= 2 step`` (Sterbenz).
    """
    if total >= tau:
        return 1, total - step
    if total <= -tau:
        return -1, total + step
    return 0, total


def outside(value: np.float32, limit: np.float32) -> bool:
    """Tell whether ``|value| < limit`` fails; it fails for NaN, whatever the limit."""
    return not (abs(value) < limit)  # not `>=`: NaN is outside too
