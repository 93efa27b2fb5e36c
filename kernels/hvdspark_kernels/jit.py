"""How every CPU kernel is compiled: the flags, each with its reason."""

from collections.abc import Callable
from typing import Any

import numba

from hvdspark_kernels.cache import CarefulCache, cache_directory

__all__ = ["BLOCK", "jit"]

BLOCK = 64
"""Elements of one inner loop. A constant: with a trip count known only at run time LLVM leaves the loop scalar."""


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` for the CPU that runs it, at its first call, and keep the result for the next process."""
    directory = cache_directory()
    settings: Any = numba.config
    before = settings.CACHE_DIR
    try:
        settings.CACHE_DIR = str(directory or "")  # read where a function is made, and by nothing else meanwhile
        compiled: Callable[..., Any] = numba.njit(
            nogil=True,  # ranges of one array run side by side on plain threads (threads.py)
            parallel=False,  # Numba's thread layers: workqueue aborts when two threads enter it, omp dies in a fork
            fastmath=False,  # a code must be the same on every machine: no reordered sums, no fused multiply-add
            error_model="numpy",  # no test for a zero divisor inside the loops
            cache=directory is not None,  # compiling all kernels takes seconds, loading them a tenth of one
        )(function)
    finally:
        settings.CACHE_DIR = before
    if directory is not None:
        compiled._cache = CarefulCache(compiled._cache, directory / "lock")  # type: ignore[attr-defined]
    return compiled
