"""The maths of one element, written once. `cpu.py` compiles it; `reference.py` runs it as it stands."""

import numpy as np

__all__ = ["clip"]


def clip(value: np.float32, bound: np.float32) -> np.float32:
    """Return `value` brought into ``-bound..bound``; NaN stays NaN."""
    if value > bound:
        return bound
    if value < -bound:
        return -bound
    return value
