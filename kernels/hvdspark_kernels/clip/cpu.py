"""Clipping on CPU cores: one pass, which writes only where something is clipped."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark_kernels import threads
from hvdspark_kernels.clip import scalar
from hvdspark_kernels.clip.reference import CHUNK
from hvdspark_kernels.jit import BLOCK, jit

__all__ = ["clip_residual"]

_clip = jit(scalar.clip)


@jit
def _clip_rows(residual: Any, bound: Any, mass: Any) -> Any:
    """Clip rows of 64 in place and return `mass` with what this throws away added to it, in order of index."""
    for row in range(residual.shape[0]):
        hits = np.int32(0)
        for j in range(BLOCK):
            hits += np.int32(abs(residual[row, j]) > bound)
        if hits:
            for j in range(BLOCK):
                value = residual[row, j]
                kept = _clip(value, bound)
                if abs(value) > bound:
                    mass += abs(np.float64(value) - np.float64(kept))
                    residual[row, j] = kept
    return mass


def clip_residual(residual: NDArray[np.float32], bound: float, num_threads: int | None = None) -> float:
    """Bring every element into ``-bound..bound`` and return what that threw away.

    Parameters
    ----------
    residual
        ``[n] float32``, contiguous, changed in place.
    bound
        At least zero; rounded to float32.
    num_threads
        The most threads to use; None for `hvdspark_kernels.threads.default_num_threads`. It does not change the result.

    Returns
    -------
    float
        ``sum |removed|``, added up in float64, in units of the residual.
    """
    limit = np.float32(bound)
    if not limit >= 0 or residual.dtype != np.float32 or residual.ndim != 1 or not residual.flags.c_contiguous:
        raise ValueError(f"a contiguous float32 array [n] and a bound of at least zero are needed (got {bound})")
    masses = [0.0] * -(-residual.size // CHUNK)

    def clip_part(begin: int, end: int) -> None:
        for start in range(begin, end, CHUNK):
            masses[start // CHUNK] = _clip_chunk(residual[start : min(start + CHUNK, end)], limit)

    threads.run(clip_part, threads.ranges(residual.size, num_threads, CHUNK))
    total = 0.0  # not sum(): from Python 3.12 on it compensates for roundings
    for mass in masses:
        total += mass
    return total


def _clip_chunk(chunk: NDArray[np.float32], limit: np.float32) -> float:
    whole = chunk.size // BLOCK * BLOCK
    mass: float = _clip_rows(chunk[:whole].reshape(-1, BLOCK), limit, 0.0)
    if whole < chunk.size:
        row = np.zeros((1, BLOCK), dtype=np.float32)
        row[0, : chunk.size - whole] = chunk[whole:]
        mass = _clip_rows(row, limit, mass)
        chunk[whole:] = row[0, : chunk.size - whole]
    return mass
