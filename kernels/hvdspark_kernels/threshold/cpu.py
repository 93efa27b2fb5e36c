"""The kernels on CPU cores: one pass over memory, compiled by Numba, cut into ranges for threads.

Arrays are seen as rows of 64. A row is a vector addition with a count of what reaches the threshold, then, only in rows
with such elements, a bit mask whose set bits are visited one by one. What is left of the last row is copied into a row
filled up with zeros, which no threshold selects: one kernel then serves every length, and compiles in half the time.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark_kernels import threads
from hvdspark_kernels.jit import BLOCK, jit, trailing_zeros
from hvdspark_kernels.threshold import scalar

__all__ = ["add_codes", "encode", "encode_difference", "first_bad_code", "first_outside", "first_outside_difference"]

_quantise = jit(scalar.quantise)
_outside = jit(scalar.outside)
_INFINITY = np.float32(np.inf)


@jit
def _one(first: Any, _second: Any) -> Any:
    """Take the update from one array."""
    return first


@jit
def _difference(first: Any, second: Any) -> Any:
    """Take the update as the difference of two arrays."""
    return first - second


def _encode_rows(load: Callable[..., Any]) -> Callable[..., tuple[int, int]]:
    """Make the encode pass over rows whose first element has the index `base`; return count and first bad index."""

    @jit
    def encode_rows(residual: Any, first: Any, second: Any, tau: Any, codes: Any, base: Any) -> Any:
        count = 0
        bad = -1
        for row in range(residual.shape[0]):
            hits = np.int32(0)
            for j in range(BLOCK):
                total = residual[row, j] + load(first[row, j], second[row, j])
                residual[row, j] = total
                hits += np.int32(_outside(total, tau))
            if hits:
                mask = np.uint64(0)
                for j in range(BLOCK):
                    mask |= np.uint64(_outside(residual[row, j], tau)) << np.uint64(j)
                while mask:
                    j = trailing_zeros(mask)
                    mask &= mask - np.uint64(1)
                    i = base + row * BLOCK + j
                    if not _outside(residual[row, j], _INFINITY):
                        sign, residual[row, j] = _quantise(residual[row, j], tau)
                        codes[count] = sign * (i + 1)
                        count += 1
                    elif bad < 0:
                        bad = i
        return count, bad

    return encode_rows


def _outside_rows(load: Callable[..., Any]) -> Callable[..., int]:
    """Make the search for the first row that holds an update whose magnitude is not below a limit."""

    @jit
    def outside_rows(first: Any, second: Any, limit: Any) -> Any:
        for row in range(first.shape[0]):
            hits = np.int32(0)
            for j in range(BLOCK):
                hits += np.int32(_outside(load(first[row, j], second[row, j]), limit))
            if hits:
                return row
        return -1

    return outside_rows


_encode_one = _encode_rows(_one)
_encode_difference = _encode_rows(_difference)
_outside_one = _outside_rows(_one)
_outside_difference = _outside_rows(_difference)


def _rows(array: NDArray[Any], begin: int, end: int) -> NDArray[Any]:
    """View ``begin..end``, a multiple of the block long, as rows."""
    return array[begin:end].reshape(-1, BLOCK)


def _last_row(array: NDArray[Any], begin: int) -> NDArray[Any]:
    """Copy what is left from `begin` into a row, the rest zero."""
    row = np.zeros((1, BLOCK), dtype=array.dtype)
    row[0, : array.size - begin] = array[begin:]
    return row


def encode(
    residual: NDArray[np.float32],
    update: NDArray[np.float32],
    tau: float,
    codes: NDArray[np.int32],
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
    tau
        The threshold, above zero and a float32 number.
    codes
        ``[n] int32``, overwritten. The codes stand at its front in rising order of index; what lies behind them is
        scratch. Only the parts that are written become memory.
    num_threads
        The most threads to use; None for `hvdspark_kernels.threads.default_num_threads`. It does not change the result.

    Returns
    -------
    (count, bad)
        The number of codes, and the first index where ``residual + update`` is not finite, or -1. Such an element is
        left as it is and never coded.
    """
    return _encode(_encode_one, residual, update, update, tau, codes, num_threads)


def encode_difference(
    residual: NDArray[np.float32],
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    tau: float,
    codes: NDArray[np.int32],
    num_threads: int | None = None,
) -> tuple[int, int]:
    """Encode ``before - after`` (each ``[n] float32``, read only) as `encode` does, in the same single pass."""
    return _encode(_encode_difference, residual, before, after, tau, codes, num_threads)


def _encode(
    kernel: Callable[..., tuple[int, int]],
    residual: NDArray[np.float32],
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    tau: float,
    codes: NDArray[np.int32],
    num_threads: int | None,
) -> tuple[int, int]:
    _check(residual, first, second)
    threshold = np.float32(tau)
    if not 0 < threshold < _INFINITY or codes.size < residual.size:
        raise ValueError(f"tau must be above zero and finite (got {tau}), codes must hold {residual.size} elements")
    whole = residual.size // BLOCK * BLOCK

    def encode_part(begin: int, end: int) -> tuple[int, int]:
        rows = (_rows(array, begin, end) for array in (residual, first, second))
        return kernel(*rows, threshold, codes[begin:end], begin)

    parts = threads.ranges(whole, num_threads, BLOCK)
    results = threads.run(encode_part, parts)
    if whole < residual.size:
        kept = _last_row(residual, whole)
        last = kernel(kept, _last_row(first, whole), _last_row(second, whole), threshold, codes[whole:], whole)
        residual[whole:] = kept[0, : residual.size - whole]
        parts, results = [*parts, (whole, residual.size)], [*results, last]
    count = _compact(codes, [begin for begin, _ in parts], [count for count, _ in results])
    return count, next((bad for _, bad in results if bad >= 0), -1)


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


def _check(*arrays: NDArray[np.float32]) -> None:
    """Refuse what the compiled loops would read or write beyond its end, or silently copy."""
    for array in arrays:
        if (
            array.dtype != np.float32
            or array.shape != arrays[0].shape
            or array.ndim != 1
            or not array.flags.c_contiguous
        ):
            shapes = ", ".join(f"{a.dtype}{list(a.shape)}" for a in arrays)
            raise ValueError(f"contiguous float32 arrays [n] of one length are needed, these are {shapes}")


def first_outside(values: NDArray[np.float32], limit: float, num_threads: int | None = None) -> int:
    """Return the first index of ``values`` (``[n] float32``) where ``|value| < limit`` fails, or -1.

    NaN fails under any limit, so a limit of infinity finds what is not finite.
    """
    return _search(_outside_one, values, values, limit, num_threads)


def first_outside_difference(
    before: NDArray[np.float32], after: NDArray[np.float32], limit: float, num_threads: int | None = None
) -> int:
    """Return the first index where ``|before - after| < limit`` fails (each ``[n] float32``), or -1."""
    return _search(_outside_difference, before, after, limit, num_threads)


def _search(
    kernel: Callable[..., int],
    first: NDArray[np.float32],
    second: NDArray[np.float32],
    limit: float,
    num_threads: int | None,
) -> int:
    _check(first, second)
    bound = np.float32(limit)
    whole = first.size // BLOCK * BLOCK

    def search_part(begin: int, end: int) -> int:
        row = kernel(_rows(first, begin, end), _rows(second, begin, end), bound)
        return -1 if row < 0 else begin + row * BLOCK

    found = threads.run(search_part, threads.ranges(whole, num_threads, BLOCK))
    if whole < first.size and kernel(_last_row(first, whole), _last_row(second, whole), bound) >= 0:
        found.append(whole)
    start = next((i for i in found if i >= 0), -1)
    if start < 0:
        return -1
    row = (
        first[start : start + BLOCK]
        if first is second
        else first[start : start + BLOCK] - second[start : start + BLOCK]
    )
    return start + int(np.argmax(~(np.abs(row) < bound)))


@jit
def _first_bad_code(codes: Any, n: Any) -> Any:
    last = np.int64(0)
    for place in range(codes.size):
        index = abs(np.int64(codes[place]))  # widened first: the smallest int32 has no positive twin
        if index <= last or index > n:
            return place
        last = index
    return -1


@jit
def _add_codes(codes: Any, value: Any, out: Any) -> Any:
    for place in range(codes.size):
        code = np.int64(codes[place])
        i = abs(code) - 1
        if 0 <= i < out.size:  # the codes are checked before; a write outside `out` stays impossible all the same
            out[i] += value if code > 0 else -value


def first_bad_code(codes: NDArray[np.int32], n: int) -> int:
    """Return the first place where ``codes`` (``[count] int32``) are no message over `n` elements, or -1.

    Good codes rise strictly in magnitude, from 1 to `n`: no zero, no repetition, nothing out of order.
    """
    return int(_first_bad_code(codes, n))


def add_codes(codes: NDArray[np.int32], value: float, out: NDArray[np.float32]) -> None:
    """Add ``value * sign(code)`` to ``out[|code| - 1]`` for every code: what a decoder does.

    Parameters
    ----------
    codes
        ``[count] int32`` that `first_bad_code` found good.
    value
        What a positive code stands for, rounded to float32 once: the threshold times the scale of the message.
    out
        ``[n] float32``, changed in place.
    """
    _add_codes(codes, np.float32(value), out)
