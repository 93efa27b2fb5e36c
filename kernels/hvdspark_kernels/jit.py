"""How every CPU kernel is compiled: the flags, each with its reason, in one place."""

from collections.abc import Callable
from typing import Any

import numba
from numba import types
from numba.extending import intrinsic

__all__ = ["BLOCK", "jit", "trailing_zeros"]

BLOCK = 64
"""Elements of one inner loop. A constant: with a trip count known only at run time LLVM leaves the loop scalar."""


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` for the CPU that runs it, at its first call."""
    compiled: Callable[..., Any] = numba.njit(
        nogil=True,  # ranges of one array run side by side on plain threads (threads.py)
        parallel=False,  # Numba's thread layers: workqueue aborts when two threads enter it, omp dies in a fork
        fastmath=False,  # a code must be the same on every machine: no reordered sums, no fused multiply-add
        error_model="numpy",  # no test for a zero divisor inside the loops
        cache=False,  # its index looks at the kernel's own file only: an edit of scalar.py would go unseen
    )(function)
    return compiled


def _trailing_zeros(_context: Any, mask: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], context.get_constant(types.boolean, 1))  # 1: never called with zero

    return (types.int64(types.uint64), generate) if mask == types.uint64 else None


trailing_zeros: Any = intrinsic(_trailing_zeros)
"""The number of zero bits below the lowest set bit of a uint64, as int64; for compiled code; the mask is not zero."""
