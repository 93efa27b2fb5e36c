"""What is done with codes on a GPU: add them up, sum what they left behind, look at a few elements."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numba import cuda, float32, float64
from numpy.typing import NDArray

from hvdspark_kernels import device

__all__ = ["add_codes", "add_runs", "gather_totals", "sum_coded", "take_back", "take_back_difference"]

_CHUNK = 4096  # codes whose magnitudes are added up on their own: the sum is that of every device
_INFINITY = np.float32(np.inf)


@device.kernel()
def _add_codes(codes: Any, begin: Any, end: Any, ends: Any, values: Any, out: Any) -> None:
    """Add the codes at ``begin..end``, whose elements all differ: a thread each."""
    place = begin + cuda.grid(1)
    if place >= end:
        return
    low, high = 0, ends.size - 1
    while low < high:
        middle = (low + high) >> 1
        if ends[middle] <= place:
            low = middle + 1
        else:
            high = middle
    code = codes[place]
    i = abs(code) - 1  # 64 bits wide, as all sums of integers here: the smallest int32 has a positive twin
    if 0 <= i < out.size:  # the codes are checked before; a write outside stays impossible all the same
        out[i] += values[low] if code > 0 else -values[low]


@device.kernel()
def _sum_coded(codes: Any, begin: Any, end: Any, residual: Any, sums: Any) -> None:
    """Add up the magnitudes of one chunk: all threads fetch them, one adds them in order."""
    magnitudes = cuda.shared.array(_CHUNK, float32)
    thread = cuda.threadIdx.x
    start = begin + cuda.blockIdx.x * _CHUNK
    count = min(_CHUNK, end - start)
    for place in range(thread, count, device.THREADS):
        i = abs(codes[start + place]) - 1
        magnitudes[place] = abs(residual[i]) if 0 <= i < residual.size else float32(0)
    cuda.syncthreads()
    if thread == 0:
        total = 0.0
        for place in range(count):
            total += float64(magnitudes[place])
        sums[cuda.blockIdx.x] = total


def _make_gather(load: Callable[..., Any]) -> Any:
    @device.kernel()
    def gather(residual: Any, first: Any, second: Any, where: Any, totals: Any) -> None:
        place = cuda.grid(1)
        if place < where.size:
            totals[place] = residual[where[place]] + load(first, second, where[place])

    return gather


def _make_take_back(load: Callable[..., Any]) -> Any:
    @device.kernel()
    def take_back(residual: Any, first: Any, second: Any) -> None:
        i = cuda.grid(1)
        if i < residual.size:
            now, update = residual[i], load(first, second, i)
            before = now - update
            # Where the sum was not finite nothing was added, and `now + update` is that sum. Where `now` is a sum, the
            # update may be so large that adding it again is not finite either; then `before` is the smaller one.
            if abs(now + update) < _INFINITY or abs(before) < abs(now):
                residual[i] = before

    return take_back


_gather, _gather_difference = _make_gather(device.one), _make_gather(device.difference)
take_back, take_back_difference = _make_take_back(device.one), _make_take_back(device.difference)


def add_runs(codes: Any, begin: int, end: int, ends: Any, values: Any, out: Any, stream: Any) -> None:
    """Launch the addition of one message's codes, at ``begin..end``; all arrays are on the device."""
    if begin < end:
        _add_codes[device.grid(end - begin), device.THREADS, stream](codes, begin, end, ends, values, out)


def add_codes(
    codes: Any,
    ends: NDArray[np.int64],
    values: NDArray[np.float32],
    out: Any,
    starts: NDArray[np.int64] | None = None,
    stream: int = 0,
) -> None:
    """Add ``value * sign(code)`` to ``out[|code| - 1]`` for every code, as `hvdspark_kernels.threshold.cpu.add_codes`.

    Nothing waits for the device.

    Parameters
    ----------
    codes
        ``[count] int32`` on the device: messages one after the other, each of which was found good.
    ends
        ``[runs] int64``, NumPy, rising to count: where each run ends.
    values
        ``[runs] float32``, NumPy: what a positive code of the run stands for.
    out
        ``[n] float32`` on the device, changed in place.
    starts
        ``[messages] int64``, NumPy, rising from 0: where each message starts. A message is one launch, so that each
        element takes the messages in their order; within a message no element may appear twice. None: each run is a
        message.
    stream
        A ``cudaStream_t``; 0 is the default stream.
    """
    codes, out = device.as_device(codes, np.int32), device.as_device(out, np.float32)
    if ends.dtype != np.int64 or values.dtype != np.float32 or ends.shape != values.shape:
        raise ValueError(f"{ends.size} ends of {ends.dtype} do not fit {values.size} values of {values.dtype}")
    if ends.size and (ends[0] < 0 or ends[-1] != codes.size or (ends[1:] < ends[:-1]).any()):
        raise ValueError(f"runs must end in rising order at {codes.size}, not at {ends.tolist()}")
    if not ends.size:
        return
    queue = device.stream_of(stream)
    bounds = [0, *ends.tolist()] if starts is None else [*starts.tolist(), codes.size]
    run_ends, run_values = cuda.to_device(ends, stream=queue), cuda.to_device(values, stream=queue)
    for begin, end in pairwise(bounds):
        add_runs(codes, begin, end, run_ends, run_values, out, queue)


def sum_coded(codes: Any, begin: int, end: int, residual: Any, stream: int = 0) -> float:
    """Return the sum of ``|residual|`` over the codes at ``begin..end``, bits equal to those of the CPU kernel.

    Parameters
    ----------
    codes
        ``[count] int32`` on the device.
    begin, end
        Which of them.
    residual
        ``[n] float32`` on the device.
    stream
        A ``cudaStream_t``; 0 is the default stream. It is waited for.
    """
    codes, residual = device.as_device(codes, np.int32), device.as_device(residual, np.float32)
    if not 0 <= begin <= end <= codes.size:
        raise ValueError(f"{begin}..{end} are not among {codes.size} codes")
    queue = device.stream_of(stream)
    chunks = device.grid(end - begin, _CHUNK)
    sums = cuda.device_array(chunks, np.float64, stream=queue)
    _sum_coded[chunks, device.THREADS, queue](codes, begin, end, residual, sums)
    total = 0.0  # not sum(): from Python 3.12 on it compensates for roundings
    for part in device.to_host(sums, queue).tolist():
        total += part
    return total


def gather_totals(
    residual: Any, first: Any, second: Any, where: NDArray[np.int64], stream: int = 0
) -> NDArray[np.float32]:
    """Return ``residual + first`` at some elements, or ``residual + (first - second)``: NumPy, ``[k] float32``.

    Parameters
    ----------
    residual, first
        ``[n] float32`` on the device, read only.
    second
        As `first`, or None.
    where
        ``[k] int64``, NumPy: which elements.
    stream
        A ``cudaStream_t``; 0 is the default stream. It is waited for.
    """
    arrays = [device.as_device(array, np.float32) for array in (residual, first, first if second is None else second)]
    if where.dtype != np.int64 or where.ndim != 1:
        raise ValueError(f"int64 indices [k] are needed, these are {where.dtype}{list(where.shape)}")
    if any(array.size != arrays[0].size for array in arrays):
        raise ValueError(f"arrays of one length are needed, not {[array.size for array in arrays]}")
    if not where.size:
        return np.empty(0, np.float32)
    if where.min() < 0 or where.max() >= arrays[0].size:
        raise ValueError(f"indices must lie in 0..{arrays[0].size - 1}, not {where.min()}..{where.max()}")
    queue = device.stream_of(stream)
    totals = cuda.device_array(where.size, np.float32, stream=queue)
    kernel = _gather if second is None else _gather_difference
    kernel[device.grid(where.size), device.THREADS, queue](*arrays, cuda.to_device(where, stream=queue), totals)
    return device.to_host(totals, queue)
