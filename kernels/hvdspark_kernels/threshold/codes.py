"""What is done with codes on CPU cores: check them, add them up."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark_kernels import threads
from hvdspark_kernels.intrinsics import prefetch
from hvdspark_kernels.jit import BLOCK, jit
from hvdspark_kernels.multiples.scalar import MOST

__all__ = ["add_codes", "first_bad_code", "sum_coded"]

_KINDS = np.dtype(np.int32), np.dtype(np.int64), np.dtype(np.float32), np.dtype(np.float32)
_AHEAD = 16  # codes; a cache line asked for that much earlier is nearer when its turn comes
_CHUNK = 4096  # codes whose magnitudes are added up on their own: the sum is that of every device
_REGION = 1 << 17  # elements that all messages are added to before the next ones: 512 KiB, half of a core's cache
_CODES = 1 << 16  # codes that are worth waking a thread for
_LINE = 16  # elements of a cache line
_CROWDED = 64  # elements a code; where codes stand closer, reading the region in order costs less than one by one


@jit
def _rises(codes: Any, begin: Any) -> Any:
    """Tell whether none of the 64 codes from `begin` on, which is not the first, is smaller than the one before."""
    now, before = codes[begin : begin + BLOCK], codes[begin - 1 : begin + BLOCK - 1]
    bad = np.int32(0)
    for j in range(BLOCK):
        bad |= np.int32(abs(now[j]) <= abs(before[j]))  # the smallest int32 has no positive twin, and so is no larger
    return bad == 0


@jit
def _first_bad_code(codes: Any, n: Any) -> Any:
    last, place = np.int64(0), 0
    while place < codes.size:
        if place and place + BLOCK <= codes.size and _rises(codes, place):
            last = abs(np.int64(codes[place + BLOCK - 1]))
            if last <= n:
                place += BLOCK
                continue
            last = abs(np.int64(codes[place - 1]))
        for k in range(place, min(place + BLOCK, codes.size)):
            index = abs(np.int64(codes[k]))  # widened first: the smallest int32 has no positive twin
            if index <= last or index > n:
                return k
            last = index
        place += BLOCK
    return -1


@jit
def _rise_to(ends: Any, count: Any) -> Any:
    """Tell whether runs end in rising order, the last one at `count`; NumPy takes five times as long to tell of few."""
    last, good = np.int64(0), True
    for run in range(ends.size):
        good &= ends[run] >= last
        last = ends[run]
    return good and last == count


@jit
def _first_beyond(codes: Any, place: Any, end: Any, magnitude: Any) -> Any:
    """Return the first place from `place` on whose code is larger than `magnitude`; codes rise up to `end`."""
    step = 1
    high = place
    while high < end and abs(np.int64(codes[high])) <= magnitude:  # it is near: double the step until it is passed
        place = high + 1
        high += step
        step *= 2
    high = min(high, end)
    while place < high:
        middle = (place + high) // 2
        if abs(np.int64(codes[middle])) <= magnitude:
            place = middle + 1
        else:
            high = middle
    return place


@jit
def _touch(out: Any, begin: Any, end: Any) -> Any:
    """Read one element of each cache line, in order, which the hardware sees and runs ahead of."""
    total = np.float32(0)
    for i in range(begin, end, _LINE):
        total += out[i]
    return total


@jit
def _worth(value: Any, several: Any, run: Any, place: Any) -> Any:
    """Return what a code of a run stands for: `value`; where there are multiples, the value of its own.

    `several` is None, or multiples and values together: without them the loops get one argument more, not fifteen.
    """
    if several is None:
        return value
    multiples, values = several
    return values[np.uint64(run * MOST + ((multiples[place] - 1) & (MOST - 1)))]  # whatever it is: no read outside


@jit
def _add_one(code: Any, value: Any, out: Any) -> Any:
    code = np.int64(code)
    sign = code >> 63  # 0 or -1: a branch on it would be mispredicted half of the time
    i = np.uint64(((code ^ sign) - sign) - 1)
    if i < np.uint64(out.size):  # the codes are checked before; a write outside stays impossible all the same
        out[i] += value * np.float32(sign | 1)


@jit
def _add_cold(codes: Any, several: Any, begin: Any, end: Any, last: Any, value: Any, run: Any, out: Any) -> Any:
    """Add the codes at ``begin..end`` of a run that ends at `last`, asking for the cache line of a code to come."""
    for place in range(begin, end):
        prefetch(out, abs(np.int64(codes[min(place + _AHEAD, last - 1)])))
        _add_one(codes[place], _worth(value, several, run, place), out)


@jit
def _add_warm(
    codes: Any, several: Any, begin: Any, end: Any, value: Any, run: Any, out: Any, ahead: Any, lines: Any, limit: Any
) -> Any:  # fmt: skip
    """Add the codes at ``begin..end``, asking for so many cache lines from `ahead` on with each, up to `limit`.

    Returns up to where they were asked for.
    """
    place = begin
    while place < end and ahead < limit:
        for _ in range(lines):
            prefetch(out, ahead)
            ahead += _LINE
        _add_one(codes[place], _worth(value, several, run, place), out)
        place += 1
    for rest in range(place, end):
        _add_one(codes[rest], _worth(value, several, run, rest), out)
    return ahead


@jit
def _add_codes(codes: Any, several: Any, ends: Any, values: Any, out: Any, begin: Any, end: Any) -> Any:
    """Add the codes of elements ``begin..end``, a region after the other.

    Where codes stand close, the next region is asked for, line by line, while they are added to this one.
    """
    places, stops = np.empty(ends.size, np.int64), np.empty(ends.size, np.int64)
    first = 0
    for run in range(ends.size):
        places[run] = _first_beyond(codes, first, ends[run], begin)
        first = ends[run]
    touched, asked = np.float32(0), begin
    for start in range(begin, end, _REGION):
        stop = min(start + _REGION, end)
        total = 0
        for run in range(ends.size):
            stops[run] = _first_beyond(codes, places[run], ends[run], stop)
            total += stops[run] - places[run]
        if total * _CROWDED > stop - start:
            touched += _touch(out, max(asked, start), stop)
            lines, limit = 1 + (stop - start) // (_LINE * total), min(stop + _REGION, end)
            asked = stop
            for run in range(ends.size):
                first, last = places[run], stops[run]
                asked = _add_warm(codes, several, first, last, values[run], run, out, asked, lines, limit)
        else:
            for run in range(ends.size):
                _add_cold(codes, several, places[run], stops[run], ends[run], values[run], run, out)
        places[:] = stops
    return touched  # so that the reading is not optimised away


@jit
def _sum_coded(codes: Any, residual: Any) -> Any:
    total = 0.0
    for start in range(0, codes.size, _CHUNK):
        part = 0.0
        for place in range(start, min(start + _CHUNK, codes.size)):
            i = abs(np.int64(codes[place])) - 1
            if 0 <= i < residual.size:
                part += abs(np.float64(residual[i]))
        total += part
    return total


def first_bad_code(codes: NDArray[np.int32], n: int) -> int:
    """Return the first place where ``codes`` (``[count] int32``) are no message over `n` elements, or -1.

    Good codes rise strictly in magnitude, from 1 to `n`: no zero, no repetition, nothing out of order.
    """
    return int(_first_bad_code(codes, n))


def sum_coded(codes: NDArray[np.int32], residual: NDArray[np.float32]) -> float:
    """Return the sum of the magnitudes of the coded elements, added up in float64, 4,096 codes at a time, in order."""
    return float(_sum_coded(codes, residual))


def add_codes(
    codes: NDArray[np.int32],
    ends: NDArray[np.int64],
    values: NDArray[np.float32],
    out: NDArray[np.float32],
    num_threads: int | None = None,
    multiples: NDArray[np.uint8] | None = None,
) -> None:
    """Add ``value * sign(code)`` to ``out[|code| - 1]`` for every code: what a decoder does with all its messages.

    Parameters
    ----------
    codes
        ``[count] int32``: one or several runs one after the other, each of which `first_bad_code` found good.
    ends
        ``[runs] int64``, rising to count: where each run ends.
    values
        ``[runs] float32``: what a positive code of the run stands for; with multiples ``[runs, 8] float32``: what it
        stands for with each of them.
    out
        ``[n] float32``, changed in place. Each element takes the runs in their order.
    num_threads
        The most threads to use; None for `hvdspark_kernels.threads.default_num_threads`. It does not change the result:
        every thread has a range of `out` to itself.
    multiples
        ``[count] uint8``: the multiple of each code, 1 to 8; None where codes have none.
    """
    kinds = codes.dtype, ends.dtype, values.dtype, out.dtype
    shape = ends.shape if multiples is None else (*ends.shape, MOST)
    if kinds != _KINDS or values.shape != shape:
        raise ValueError(f"codes, ends, values and out have dtypes {[*kinds]}, {ends.size} ends, {values.size} values")
    if multiples is not None and (multiples.dtype != np.uint8 or multiples.shape != codes.shape):
        raise ValueError(f"{multiples.size} multiples of {multiples.dtype} do not fit {codes.size} codes")
    if ends.size and not _rise_to(ends, codes.size):
        raise ValueError(f"runs must end in rising order at {codes.size}, not at {ends.tolist()}")
    if num_threads is None:
        num_threads = threads.default_num_threads() if codes.size >= _CODES else 1
    parts = threads.ranges(out.size, min(num_threads, 1 + codes.size // _CODES), _REGION)
    flat = values if multiples is None else values.ravel()
    several = None if multiples is None else (multiples, flat)
    threads.run(lambda begin, end: _add_codes(codes, several, ends, flat, out, begin, end), parts)
