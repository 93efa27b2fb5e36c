"""The maths of one element, written once. `cpu.py` compiles it; `reference.py` runs it as it stands."""

import numpy as np

__all__ = ["outside", "quantise"]


def quantise(total: np.float32, tau: np.float32) -> tuple[int, np.float32]:
    """Split a finite `total` into what is sent and what is kept.

    Returns
    -------
    (sign, remainder)
        ``total == sign * tau + remainder`` with sign -1, 0 or 1. A magnitude equal to `tau` is sent. The remainder is
        rounded once, and exact wherever ``tau <= |total| <= 2 tau`` (Sterbenz).
    """
    if total >= tau:
        return 1, total - tau
    if total <= -tau:
        return -1, total + tau
    return 0, total


def outside(value: np.float32, limit: np.float32) -> bool:
    """Tell whether ``|value| < limit`` fails; it fails for NaN, whatever the limit."""
    return not (abs(value) < limit)  # not `>=`: NaN is outside too
