"""Clipping on an NVIDIA GPU: one pass, which writes only where something is clipped."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import cuda, float32, float64, uint32

from hvdspark_kernels import device
from hvdspark_kernels.clip import scalar
from hvdspark_kernels.clip.reference import CHUNK

__all__ = ["CLIP", "Clip", "clip_residual", "make_clip"]

_ITEMS = 8  # elements that a thread asks for at the same time

_clip = device.jit(scalar.clip)


@dataclass(frozen=True)
class Clip:
    """A kernel ``(residual, bound, masses)`` of so many threads a block, one block for each `chunk` of elements."""

    threads: int
    chunk: int
    kernel: Any


def _make_clip_span(threads: int, items: int) -> Any:
    @device.jit
    def clip_span(residual: Any, bound: Any, start: Any, end: Any, thread: Any, values: Any, marks: Any) -> Any:
        """Clip a span in place; note what was clipped in `marks`, its former values in `values`."""
        loaded = cuda.local.array(items, float32)
        for item in range(items):
            i = start + item * threads + thread
            loaded[item] = residual[i] if i < end else float32(0)
        clipped = 0
        for item in range(items):
            if abs(loaded[item]) > bound:
                place = item * threads + thread
                residual[start + place] = _clip(loaded[item], bound)
                values[place] = loaded[item]
                cuda.atomic.or_(marks, place >> 5, uint32(1 << (place & 31)))
                clipped = 1
        return clipped

    return clip_span


@device.jit
def _add_up(mass: Any, bound: Any, values: Any, marks: Any) -> Any:
    """Add what a span lost, in order of index: the bits of the sum are those of every device."""
    for word in range(marks.size):
        bits = marks[word]
        while bits:
            value = values[word * 32 + cuda.ffs(bits) - 1]
            mass += abs(float64(value) - float64(_clip(value, bound)))
            bits = uint32(bits & (bits - 1))
    return mass


def make_clip(threads: int = device.THREADS, items: int = _ITEMS, chunk: int = CHUNK) -> Clip:
    """Make the kernel; tests make a small one."""
    span = threads * items
    words = -(-span // 32)
    clip_span = _make_clip_span(threads, items)

    @device.kernel(threads)
    def clip_chunk(residual: Any, bound: Any, masses: Any) -> None:
        values = cuda.shared.array(span, float32)
        marks = cuda.shared.array(words, uint32)
        thread = cuda.threadIdx.x
        begin = cuda.blockIdx.x * chunk
        end = min(begin + chunk, residual.size)
        mass = 0.0
        for start in range(begin, end, span):
            for word in range(thread, words, threads):
                marks[word] = 0
            cuda.syncthreads()
            clipped = clip_span(residual, bound, start, end, thread, values, marks)
            if cuda.syncthreads_or(clipped):
                if thread == 0:
                    mass = _add_up(mass, bound, values, marks)
                cuda.syncthreads()  # only now may the marks be cleared
        if thread == 0:
            masses[cuda.blockIdx.x] = mass

    return Clip(threads, chunk, clip_chunk)


CLIP = make_clip()


def clip_residual(residual: Any, bound: float, stream: int = 0, clip: Clip = CLIP) -> float:
    """Bring every element into ``-bound..bound`` and return what that threw away.

    Parameters
    ----------
    residual
        ``[n] float32`` on the device, contiguous, changed in place.
    bound
        At least zero; rounded to float32.
    stream
        A ``cudaStream_t``; 0 is the default stream. It is waited for.
    clip
        The kernel.

    Returns
    -------
    float
        ``sum |removed|``, added up in float64, bits equal to those of the CPU kernel.
    """
    limit = np.float32(bound)
    if not limit >= 0:
        raise ValueError(f"a bound of at least zero is needed (got {bound})")
    residual, queue = device.as_device(residual, np.float32), device.stream_of(stream)
    masses = cuda.device_array(device.grid(residual.size, clip.chunk), np.float64, stream=queue)
    clip.kernel[masses.size, clip.threads, queue](residual, limit, masses)
    discarded = 0.0  # not sum(): from Python 3.12 on it compensates for roundings
    for mass in device.to_host(masses, queue).tolist():
        discarded += mass
    return discarded
