"""What every contestant is held against: ``r += g``, the least that an encode must read and write."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark_kernels import threads
from hvdspark_kernels.jit import jit

__all__ = ["add", "scatter", "threshold_of"]


@jit
def _add(residual: Any, update: Any) -> Any:
    for i in range(residual.size):
        residual[i] += update[i]


def add(residual: NDArray[np.float32], update: NDArray[np.float32], num_threads: int) -> None:
    """Do ``residual += update`` with Numba, on so many threads: 12 bytes an element."""
    parts = threads.ranges(residual.size, num_threads, 64)
    threads.run(lambda begin, end: _add(residual[begin:end], update[begin:end]), parts)


@jit
def scatter(indices: Any, out: Any) -> Any:
    """Add one to an element after the other: what memory asks for codes that stand apart, with nothing checked."""
    for place in range(indices.size):
        out[indices[place]] += np.float32(1)


def threshold_of(update: NDArray[np.float32], density: float) -> float:
    """Return the magnitude that this share of the elements reaches."""
    wanted = int(update.size * (1 - density))
    return float(np.partition(np.abs(update), wanted)[wanted])
