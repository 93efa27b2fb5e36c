"""What is done with codes on a GPU: add them up, sum what they left behind, look at a few elements."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numba import cuda, float32, float64
from numpy.typing import NDArray

from hvdspark_kernels import device
from hvdspark_kernels.multiples.scalar import MOST

__all__ = ["add_codes", "add_runs", "gather_totals", "sum_coded", "take_back", "take_back_difference"]

_CHUNK = 4096  # codes whose magnitudes are added up on their own: the sum is that of every device
_INFINITY = np.float32(np.inf)


def _make_add_codes(worth: Callable[..., Any]) -> Any:
    @device.kernel()
    def add_codes(codes: Any, multiples: Any, begin: Any, end: Any, ends: Any, values: Any, out: Any) -> None:
        """Add the codes at ``begin..end``, whose elements all differ: a thread each."""
        place = begin + cuda.grid(1)
        if place >= end:
            return
        code = codes[place]
        i = abs(code) - 1  # 64 bits wide, as all sums of integers here: the smallest int32 has a positive twin
        if 0 <= i < out.size:  # the codes are checked before; a write outside stays impossible all the same
            value = worth(values, device.run_of(ends, place), multiples, place)
            out[i] += value if code > 0 else -value

    return add_codes


@device.jit
def _plain(values: Any, run: Any, _multiples: Any, _place: Any) -> Any:
    return values[run]


@device.jit
def _multiplied(values: Any, run: Any, multiples: Any, place: Any) -> Any:
    return values[run * MOST + ((multiples[place] - 1) & (MOST - 1))]


_add_codes, _add_multiples = _make_add_codes(_plain), _make_add_codes(_multiplied)


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


def add_runs(
    codes: Any, multiples: Any | None, begin: int, end: int, ends: Any, values: Any, out: Any, stream: Any
) -> None:
    """Launch the addition of one message's codes, at ``begin..end``; all arrays are on the device."""
    if begin < end:
        add = _add_codes if multiples is None else _add_multiples
        given = codes if multiples is None else multiples  # a kernel takes no None; the plain one does not look
        add[device.grid(end - begin), device.THREADS, stream](codes, given, begin, end, ends, values, out)


def add_codes(
    codes: Any,
    ends: NDArray[np.int64],
    values: NDArray[np.float32],
    out: Any,
    starts: NDArray[np.int64] | None = None,
    stream: int = 0,
    multiples: NDArray[np.uint8] | None = None,
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
        ``[runs] float32``, NumPy: what a positive code of the run stands for; with multiples ``[runs, 8] float32``:
        what it stands for with each of them.
    out
        ``[n] float32`` on the device, changed in place.
    starts
        ``[messages] int64``, NumPy, rising from 0: where each message starts. A message is one launch, so that each
        element takes the messages in their order; within a message no element may appear twice. None: each run is a
        message.
    stream
        A ``cudaStream_t``; 0 is the default stream.
    multiples
        ``[count] uint8``, NumPy: the multiple of each code, 1 to 8; None where codes have none.
    """
    codes, out = device.as_device(codes, np.int32), device.as_device(out, np.float32)
    shape = ends.shape if multiples is None else (*ends.shape, MOST)
    if ends.dtype != np.int64 or values.dtype != np.float32 or values.shape != shape:
        raise ValueError(f"{ends.size} ends of {ends.dtype} do not fit {values.size} values of {values.dtype}")
    if multiples is not None and (multiples.dtype != np.uint8 or multiples.shape != codes.shape):
        raise ValueError(f"{multiples.size} multiples of {multiples.dtype} do not fit {codes.size} codes")
    if ends.size and (ends[0] < 0 or ends[-1] != codes.size or (ends[1:] < ends[:-1]).any()):
        raise ValueError(f"runs must end in rising order at {codes.size}, not at {ends.tolist()}")
    if not ends.size:
        return
    queue = device.stream_of(stream)
    bounds = [0, *ends.tolist()] if starts is None else [*starts.tolist(), codes.size]
    run_ends, run_values = cuda.to_device(ends, stream=queue), cuda.to_device(values.ravel(), stream=queue)
    sent = None if multiples is None else cuda.to_device(multiples, stream=queue)
    for begin, end in pairwise(bounds):
        add_runs(codes, sent, begin, end, run_ends, run_values, out, queue)


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
