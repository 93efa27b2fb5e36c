"""The kernel in slow, obvious NumPy: what `cpu.py` must equal bit for bit. Same functions, same arguments."""

import numpy as np
from numpy.typing import NDArray

from hvdspark_kernels.clip.scalar import clip

__all__ = ["CHUNK", "clip_residual"]

CHUNK = 1 << 16
"""Elements whose discarded mass is added up on its own, so that the sum does not depend on the number of threads."""


def clip_residual(residual: NDArray[np.float32], bound: float) -> float:
    """Clip in place and return the discarded mass: see `hvdspark_kernels.clip.cpu.clip_residual`."""
    limit = np.float32(bound)
    discarded = 0.0
    for begin in range(0, residual.size, CHUNK):
        mass = 0.0
        for i in range(begin, min(begin + CHUNK, residual.size)):
            kept = clip(residual[i], limit)
            if abs(residual[i]) > limit:
                mass += abs(float(residual[i]) - float(kept))
                residual[i] = kept
        discarded += mass
    return discarded
