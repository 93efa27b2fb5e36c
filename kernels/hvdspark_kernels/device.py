"""How every CUDA kernel is compiled, and how arrays reach it. Needs numba-cuda; the simulator will do (no card needed).

PTX keeps a multiplication and an addition apart; ptxas fuses the two into one rounding. So kernels only ever add.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import config, cuda, types
from numpy.typing import DTypeLike, NDArray

__all__ = [
    "BLOCKS",
    "THREADS",
    "as_device",
    "difference",
    "fresh",
    "grid",
    "jit",
    "kernel",
    "one",
    "run_of",
    "stream_of",
    "to_host",
]

THREADS = 256
"""Threads of a block: 2,048 fill a multiprocessor of compute capability 8.0, 9.0 and 10.0."""

BLOCKS = 8
"""Blocks that fill a multiprocessor."""


def kernel(threads: int = THREADS) -> Callable[[Callable[..., Any]], Any]:
    """Compile a kernel for blocks of so many threads at its first call, with registers for full occupancy."""

    def compiled(function: Callable[..., Any]) -> Any:
        bounds = {} if config.ENABLE_CUDASIM else {"launch_bounds": (threads, BLOCKS)}  # it knows no registers
        return cuda.jit(fastmath=False, **bounds)(function)

    return compiled


def jit(function: Callable[..., Any]) -> Any:
    """Compile a function that kernels call."""
    return cuda.jit(device=True, fastmath=False)(function)


if config.ENABLE_CUDASIM:

    @jit
    def fresh(array: Any, place: Any) -> Any:
        """Read what other blocks write: the simulator runs one block after the other."""
        return array[place]
else:
    from numba.cuda.extending import intrinsic

    @intrinsic
    def fresh(_context: Any, array: Any, _place: Any) -> Any:
        """Read a 64-bit word that other blocks write, from memory at each call.

        Not `cuda.ldcv`: its assembly is not marked volatile, so LLVM takes it out of a loop, which then never ends.
        """

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            from llvmlite import ir

            data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
            address = builder.gep(data, [arguments[1]])
            kind = ir.FunctionType(ir.IntType(64), [address.type])
            load = ir.InlineAsm(kind, "ld.relaxed.gpu.global.b64 $0, [$1];", "=l,l,~{memory}", side_effect=True)
            return builder.call(load, [address])

        return types.int64(array, types.int64), generate


@jit
def one(first: Any, _second: Any, i: Any) -> Any:
    """Take the update from one array."""
    return first[i]


@jit
def difference(first: Any, second: Any, i: Any) -> Any:
    """Take the update as the difference of two arrays."""
    return first[i] - second[i]


@jit
def run_of(ends: Any, place: Any) -> Any:
    """Return the run of a place: the first that ends behind it."""
    low, high = 0, ends.size - 1
    while low < high:
        middle = (low + high) >> 1
        if ends[middle] <= place:
            low = middle + 1
        else:
            high = middle
    return low


def as_device(array: Any, dtype: DTypeLike) -> Any:
    """Return a view of a device array, for kernels, which look at neither type nor layout.

    Parameters
    ----------
    array
        ``[n]``, contiguous, with ``__cuda_array_interface__``: of Numba, torch, CuPy.
    dtype
        What its elements must be.
    """
    if not config.ENABLE_CUDASIM:
        array = cuda.as_cuda_array(array, sync=False)  # the caller names the stream
    if array.dtype != np.dtype(dtype) or array.ndim != 1 or not array.is_c_contiguous():
        raise ValueError(f"a contiguous {np.dtype(dtype)} array [n] is needed, this is {array.dtype}{array.shape}")
    return array


def stream_of(handle: int) -> Any:
    """Return Numba's stream for a ``cudaStream_t``; 0 is the default stream, which torch uses unless told.

    It is an object for that one too: copies on a bare 0 are CUDA's synchronous ones, which the host waits for.
    """
    if config.ENABLE_CUDASIM:
        return 0
    return cuda.external_stream(handle) if handle else cuda.legacy_default_stream()


def grid(n: int, threads: int = THREADS) -> int:
    """Return how many blocks have a thread for each of `n` elements; at least one."""
    return max(1, -(-n // threads))


def to_host(array: Any, stream: Any) -> NDArray[Any]:
    """Copy an array to the host; wait for it, and so for all that was put on the stream before."""
    copied: NDArray[Any] = array.copy_to_host(stream=stream)
    if stream:
        stream.synchronize()
    return copied
