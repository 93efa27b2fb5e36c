"""The encode pass on CPU cores: one pass over memory, compiled by Numba, cut into ranges for threads.

Arrays are seen as rows of 64 (row.py). A few rows make a tile, which stays in the nearest cache: first all its rows
are added and leave masks, then the set bits of those masks are visited one by one. Interleaving the two row by row
would stop the stream of vector instructions at every unpredictable branch.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark_kernels import threads
from hvdspark_kernels.intrinsics import trailing_zeros
from hvdspark_kernels.jit import BLOCK, jit
from hvdspark_kernels.threshold import scalar
from hvdspark_kernels.threshold.codes import add_codes, first_bad_code, sum_coded
from hvdspark_kernels.threshold.row import add_row

__all__ = ["add_codes", "encode", "encode_accumulated", "encode_difference", "first_bad_code", "sum_coded"]

_FLOAT = np.dtype(np.float32)
_KINDS = np.dtype(np.int64), _FLOAT, _FLOAT, np.dtype(np.int32), np.dtype(np.int64)
_TILE_ROWS = 8
_INFINITY = np.float32(np.inf)
_CHUNK = 1 << 15  # elements; 128 KiB of scratch stay in the cache

_quantise = jit(scalar.quantise)
_outside = jit(scalar.outside)


@jit
def _total(residual: Any, first: Any, second: Any, i: Any) -> Any:
    """Add an element of the update, which is one array, or the difference of two, or in the residual already."""
    if first is None:
        return residual[i]
    if second is None:
        return residual[i] + first[i]
    return residual[i] + (first[i] - second[i])


@jit
def _send(residual: Any, i: Any, tau: Any, step: Any, codes: Any, count: Any) -> Any:
    """Code element `i`, which reaches the threshold."""
    sign, residual[i] = _quantise(residual[i], tau, step)
    codes[count] = sign * (i + 1)


@jit
def _encode_span(
    residual: Any, first: Any, second: Any, start: Any, stop: Any, tau: Any, step: Any, codes: Any, count: Any
) -> Any:
    """Encode elements ``start..stop`` of one group.

    Return the number of codes so far, the first element that is not finite or -1, and the first not added.
    """
    masks = np.empty(_TILE_ROWS, np.uint64)
    places = np.empty(_TILE_ROWS, np.int64)
    whole = start + (stop - start) // BLOCK * BLOCK
    place = np.int64(start)
    while place < whole:
        rows = _TILE_ROWS if whole - place >= _TILE_ROWS * BLOCK else (whole - place) // BLOCK
        hits = 0
        for _ in range(rows):
            mask, bad = add_row(residual, first, second, place, tau)
            if bad:
                return count, place + trailing_zeros(bad), place
            masks[hits] = mask
            places[hits] = place
            hits += mask != 0  # an empty row's place is taken by the next: no branch to mispredict
            place += BLOCK
        for hit in range(hits):
            mask = masks[hit]
            while mask:
                _send(residual, places[hit] + trailing_zeros(mask), tau, step, codes, count)
                mask &= mask - np.uint64(1)
                count += 1
    for i in range(whole, stop):
        total = _total(residual, first, second, i)
        if _outside(total, _INFINITY):
            return count, i, i
        residual[i] = total
        if _outside(total, tau):
            _send(residual, i, tau, step, codes, count)
            count += 1
    return count, -1, stop


@jit
def _encode_range(
    residual: Any, first: Any, second: Any, begin: Any, end: Any, ends: Any, taus: Any, steps: Any, codes: Any,
    counts: Any,
) -> Any:  # fmt: skip
    """Encode elements ``begin..end``, which may belong to several groups."""
    count, start = 0, begin
    for group in range(ends.size):
        stop = min(ends[group], end)
        if stop <= start:
            continue
        before = count
        count, bad, reached = _encode_span(
            residual, first, second, start, stop, taus[group], steps[group], codes, count
        )  # fmt: skip
        counts[group] = count - before
        if bad >= 0:
            return count, bad, reached
        start = stop
    return count, -1, start


def encode(
    residual: NDArray[np.float32],
    update: NDArray[np.float32],
    ends: NDArray[np.int64],
    taus: NDArray[np.float32],
    steps: NDArray[np.float32],
    codes: NDArray[np.int32],
    counts: NDArray[np.int64],
    num_threads: int | None = None,
) -> tuple[int, int]:
    """Add an update to the residual, take out what reaches the threshold, and list it: one pass, 12 bytes an element.

    Strom, "Scalable distributed DNN training using commodity GPU cloud computing", Interspeech 2015.

    Parameters
    ----------
    residual
        ``[n] float32``, contiguous, changed in place: what was kept so far in, what is kept now out.
    update
        ``[n] float32``, read only.
    ends
        ``[groups] int64``, rising to n: element i belongs to the first group with ``i < ends[group]``.
    taus
        ``[groups] float32``: the threshold of each group, above zero and finite.
    steps
        ``[groups] float32``: what a code takes off a magnitude; zero to leave elements as they are.
    codes
        ``[n] int32``, overwritten. The codes stand at its front in rising order of index; what lies behind them is
        scratch. Only the parts that are written become memory.
    counts
        ``[groups] int64``, overwritten by the number of codes of each group.
    num_threads
        The most threads to use; None for `hvdspark_kernels.threads.default_num_threads`. It does not change the result
        (but where sums are not finite).

    Returns
    -------
    (count, bad)
        The number of codes and -1. Or 0 and the first index where ``residual + update`` is not finite: then the
        residual is as it was, to within a rounding or two of the sums (docs/adr/0005).
    """
    return _encode(residual, update, None, ends, taus, steps, codes, counts, num_threads)


def encode_difference(
    residual: NDArray[np.float32],
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    ends: NDArray[np.int64],
    taus: NDArray[np.float32],
    steps: NDArray[np.float32],
    codes: NDArray[np.int32],
    counts: NDArray[np.int64],
    num_threads: int | None = None,
) -> tuple[int, int]:
    """Encode ``before - after`` (each ``[n] float32``, read only) as `encode` does, in the same single pass."""
    return _encode(residual, before, after, ends, taus, steps, codes, counts, num_threads)


def encode_accumulated(
    residual: NDArray[np.float32],
    ends: NDArray[np.int64],
    taus: NDArray[np.float32],
    steps: NDArray[np.float32],
    codes: NDArray[np.int32],
    counts: NDArray[np.int64],
    num_threads: int | None = None,
) -> tuple[int, int]:
    """Encode a residual to which the update has been added already: as `encode`, but it reads 4 bytes an element."""
    return _encode(residual, None, None, ends, taus, steps, codes, counts, num_threads)


def _encode(
    residual: NDArray[np.float32],
    first: NDArray[np.float32] | None,
    second: NDArray[np.float32] | None,
    ends: NDArray[np.int64],
    taus: NDArray[np.float32],
    steps: NDArray[np.float32],
    codes: NDArray[np.int32],
    counts: NDArray[np.int64],
    num_threads: int | None,
) -> tuple[int, int]:
    _check_arrays(residual, first, second)
    _check_groups(residual.size, ends, taus, steps, codes, counts)
    parts = threads.ranges(residual.size, num_threads, BLOCK)
    if len(parts) == 1:  # the same without what several need: a short array takes half the time
        counts[:] = 0
        count, bad, reached = _encode_range(residual, first, second, *parts[0], ends, taus, steps, codes, counts)
        if bad >= 0:
            _undo(residual, first, second, codes[:count], np.cumsum(counts), steps, {0: reached})
            return 0, bad
        return count, -1
    begins = [begin for begin, _ in parts]
    table = np.zeros((len(parts), ends.size), np.int64)
    found = dict(zip(begins, table, strict=True))

    def encode_part(begin: int, end: int) -> tuple[int, int, int]:
        arrays = (residual, first, second)
        result: tuple[int, int, int] = _encode_range(
            *arrays, begin, end, ends, taus, steps, codes[begin:end], found[begin]
        )
        return result

    results = threads.run(encode_part, parts)
    count = _compact(codes, begins, [count for count, _, _ in results])
    table.sum(axis=0, out=counts)
    bad = next((bad for _, bad, _ in results if bad >= 0), -1)
    if bad < 0:
        return count, -1
    reaches = {begin: reached for begin, (_, _, reached) in zip(begins, results, strict=True)}
    _undo(residual, first, second, codes[:count], np.cumsum(counts), steps, reaches)
    return 0, bad


def _undo(
    residual: NDArray[np.float32],
    first: NDArray[np.float32] | None,
    second: NDArray[np.float32] | None,
    codes: NDArray[np.int32],
    ends: NDArray[np.int64],
    steps: NDArray[np.float32],
    reaches: dict[int, int],
) -> None:
    """Put back what codes have taken; subtract the update, as far as each part, named by its begin, has added it."""
    add_codes(codes, ends, steps, residual)
    if first is None:
        return
    for begin, end in reaches.items():
        for start in range(begin, end, _CHUNK):
            part = slice(start, min(start + _CHUNK, end))
            residual[part] -= first[part] if second is None else first[part] - second[part]


def _compact(codes: NDArray[np.int32], begins: list[int], counts: list[int]) -> int:
    """Move the codes of all parts to the front, in order, and return how many there are."""
    # A memoryview moves overlapping memory without a copy of it; assigning a NumPy slice would make one.
    memory = codes.view(np.uint8).data
    total = 0
    for begin, count in zip(begins, counts, strict=True):
        if count and begin != total:
            memory[4 * total : 4 * (total + count)] = memory[4 * begin : 4 * (begin + count)]
        total += count
    return total


def _check_arrays(residual: NDArray[np.float32], *updates: NDArray[np.float32] | None) -> None:
    """Refuse what the compiled loops would read or write beyond its end, or silently copy."""
    arrays = [residual, *(array for array in updates if array is not None)]
    for array in arrays:
        if array.dtype != _FLOAT or array.shape != (residual.size,) or not array.flags.c_contiguous:
            shapes = ", ".join(f"{a.dtype}{list(a.shape)}" for a in arrays)
            raise ValueError(f"contiguous float32 arrays [n] of one length are needed, these are {shapes}")


def _check_groups(
    n: int,
    ends: NDArray[np.int64],
    taus: NDArray[np.float32],
    steps: NDArray[np.float32],
    codes: NDArray[np.int32],
    counts: NDArray[np.int64],
) -> None:
    kinds = ends.dtype, taus.dtype, steps.dtype, codes.dtype, counts.dtype
    if kinds != _KINDS or codes.size < n:
        raise ValueError(f"ends, taus, steps, codes, counts have dtypes {[*kinds]}; codes must hold {n} elements")
    if not (ends.shape == taus.shape == steps.shape == counts.shape) or not ends.size or ends[-1] != n:
        raise ValueError(f"the groups {ends.tolist()} do not end at {n}, or not all of them have tau, step and count")
    # As lists: there is one group, as a rule, for which an operation on arrays would take ten times as long.
    bounds = ends.tolist()
    if bounds[0] < 0 or bounds != sorted(bounds):
        raise ValueError(f"the ends of groups must rise, not {bounds}")
    thresholds, values = taus.tolist(), steps.tolist()
    if not all(0 < tau < math.inf for tau in thresholds) or not all(0 <= step < math.inf for step in values):
        raise ValueError(f"tau must be above zero and finite (got {thresholds}), and steps {values} likewise")
