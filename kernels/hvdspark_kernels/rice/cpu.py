"""Writing and reading on CPU cores. Chunks go to threads; inside a thread, the chain of dependent steps is kept short.

Where a code begins is known only when the one before has been looked at. So that little hangs on that chain, all that
can be done for many codes at a time is done before it (writing.py) or after it (reading.py), in vector instructions, a
block of 64 codes after the other; and four chunks are read at a time, whose chains have nothing to do with each other.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark_kernels import threads
from hvdspark_kernels.jit import jit
from hvdspark_kernels.rice.gaps import gap_at, short_bits
from hvdspark_kernels.rice.reading import read_chunks
from hvdspark_kernels.rice.scalar import CHUNK, MAX_MAGNITUDE, MAX_PARAMETER, chunk_of
from hvdspark_kernels.rice.writing import words_of, write_chunks

__all__ = ["best_size", "most_codes", "read", "write"]

_CODE, _BYTE = np.dtype(np.int32), np.dtype(np.uint8)  # comparing with them takes a fifth of the time of the types
_CHUNKS = 16  # chunks that are worth waking a thread for
_SAMPLED = CHUNK  # gaps from which a parameter is guessed
_GOLDEN = 0x9E3779B1  # 2**32 over the golden ratio: its multiples are spread evenly and follow no short period


@jit
def _sample(codes: Any) -> Any:
    """Return one gap of each stretch of the list: all of them if they are few.

    Which one is as good as drawn: gaps can be periodic, as rows of a weight are, and every k-th would tell nothing.
    """
    stride = (codes.size + _SAMPLED - 1) // _SAMPLED
    gaps = np.empty((codes.size + stride - 1) // stride, np.uint32)
    for j in range(gaps.size):
        drawn = np.uint64(np.uint32(j * _GOLDEN)) * np.uint64(stride) >> np.uint64(32)  # below the stride
        gaps[j] = gap_at(codes, min(j * stride + np.int64(drawn), codes.size - 1))
    return gaps


@jit
def _guess(gaps: Any, unit: Any) -> Any:
    """Return the parameter with which gaps take the fewest units of so many bits, the smallest such, and how many."""
    best, least = 0, np.int64(1) << 62
    for parameter in range(MAX_PARAMETER + 1):
        bits = np.uint32(0)
        for j in range(gaps.size):
            bits += short_bits(gaps[j], np.uint32(parameter))
        units = (np.int64(bits) + unit - 1) // unit
        if units < least:
            best, least = parameter, units
    return best, least


@jit
def _words(codes: Any, first: Any, size: Any, sums: Any) -> Any:
    """Write how many words the codes take with the parameters ``first``, ``first + 1`` and ``first + 2``."""
    sums[:] = 0
    for start in range(0, codes.size, size):
        stop = min(start + size, codes.size)
        gap, one = np.uint32(gap_at(codes, start)), np.uint32(first)
        two, three = one + np.uint32(1), one + np.uint32(2)
        low, middle, high = short_bits(gap, one), short_bits(gap, two), short_bits(gap, three)
        now, before = codes[start + 1 : stop], codes[start : stop - 1]
        for j in range(now.size):
            gap = np.uint32(abs(now[j]) - abs(before[j]) - np.int32(1))
            low += short_bits(gap, one)
            middle += short_bits(gap, two)
            high += short_bits(gap, three)
        for k, bits in enumerate((low, middle, high)):
            sums[k] += (np.int64(bits) + 63) // 64


def _table_bytes(count: int) -> int:
    return 8 * ((count - 1) // CHUNK) if count else 0


def best_size(codes: NDArray[np.int32]) -> tuple[int, int]:
    """Find the parameter that makes the payload smallest, the smallest such, and that size.

    The size is exact. The parameter is the best of all for a list of up to 4,096 codes. For a longer one it is the best
    of all for 4,096 of its gaps, and from there one step after the other is taken as long as the whole list gets no
    longer. Where no gap is written raw, no other parameter is better, but for the padding of chunks: one step adds
    ``1 - ceil(quotient / 2)`` bits to a code, which never falls from step to step, so the sum has one valley. Raw gaps
    can make several; the sample then tells which is deepest.

    Parameters
    ----------
    codes
        ``[count] int32``, rising in magnitude, no zero.

    Returns
    -------
    (parameter, payload_bytes)
        ``(0, 0)`` without codes.
    """
    if not codes.size:
        return 0, 0
    parameter, words = _guess(_sample(codes), 64 if codes.size <= _SAMPLED else 1)
    if codes.size <= _SAMPLED:
        return parameter, 8 * words
    sums, before = np.empty(3, np.int64), -1
    while parameter != before:  # a step makes the list shorter, or else the parameter smaller: one is the last
        before, first = parameter, min(max(parameter - 1, 0), MAX_PARAMETER - 2)
        _words(codes, first, chunk_of(codes.size), sums)
        parameter = first + int(np.argmin(sums))
    return parameter, _table_bytes(codes.size) + 8 * int(sums.min())


def most_codes(payload_bytes: int, parameter: int) -> int:
    """Return the most codes that so many bytes can hold: bounds what is set aside for a payload not yet read."""
    return payload_bytes * 8 // (parameter + 2)


def write(codes: NDArray[np.int32], parameter: int, payload: NDArray[np.uint8], num_threads: int | None = None) -> None:
    """Write codes.

    Parameters
    ----------
    codes
        ``[count] int32``, rising in magnitude, no zero.
    parameter
        0 to 30.
    payload
        ``[bytes] uint8`` of the size that `best_size` tells for this parameter, 8-byte aligned.
    num_threads
        The most threads to use; None for `hvdspark_kernels.threads.default_num_threads`. It does not change a byte.
    """
    _check(codes, payload)
    if payload.size % 8 or (_table_bytes(codes.size) >= payload.size if codes.size else payload.size):
        raise ValueError(f"{codes.size} codes cannot be written into {payload.size} bytes")
    if not codes.size:
        return
    parts = _parts(codes.size, num_threads)
    starts = {0: 0}
    if len(parts) > 1:  # where the words of each thread begin
        taken = threads.run(lambda begin, end: words_of(codes, begin, end, parameter), parts[:-1])
        starts.update(zip([end for _, end in parts[:-1]], np.cumsum(taken).tolist(), strict=True))
    ends = threads.run(lambda begin, end: write_chunks(codes, parameter, payload, begin, end, starts[begin]), parts)
    if ends[-1] != payload.size:
        raise ValueError(f"these codes take {ends[-1]} bytes with parameter {parameter}, there are {payload.size}")


def _check(codes: NDArray[np.int32], payload: NDArray[np.uint8]) -> None:
    """Refuse what compiled loops would reach beyond: they take memory to be contiguous."""
    for array, dtype in ((codes, _CODE), (payload, _BYTE)):
        if array.dtype != dtype or array.ndim != 1 or not array.flags.c_contiguous:
            raise ValueError(f"a contiguous {dtype} array is needed, not {array.dtype}{list(array.shape)}")


def _parts(count: int, num_threads: int | None) -> list[tuple[int, int]]:
    """Cut the chunks of so many codes among threads."""
    return threads.ranges(-(-count // chunk_of(count)), num_threads, 1, least=_CHUNKS)


def read(
    payload: NDArray[np.uint8], parameter: int, n: int, codes: NDArray[np.int32], num_threads: int | None = None
) -> int:
    """Read codes, whatever the bytes are: nothing is read outside of the payload, nothing written outside of ``codes``.

    Parameters
    ----------
    payload
        ``[bytes] uint8``, writable or not, of any size.
    parameter
        As it was written with.
    n
        The largest magnitude that a code may have.
    codes
        ``[count] int32``, overwritten.
    num_threads
        The most threads to use; None for `hvdspark_kernels.threads.default_num_threads`.

    Returns
    -------
    int
        `count` if the payload is just what `write` makes of these codes; else less: the codes of the chunks in front
        of the first that is not good, by itself or by the table's entry for the one after it; -1 for bytes without
        codes.
    """
    _check(codes, payload)
    if payload.size % 8 or payload.size < _table_bytes(codes.size) or not 0 <= parameter <= MAX_PARAMETER:
        return 0 if codes.size else -1
    if not codes.size:
        return -1 if payload.size else 0
    most, parts = min(n, MAX_MAGNITUDE), _parts(codes.size, num_threads)
    if len(parts) == 1:  # a short list takes no longer than threads.run would
        good, whole = [read_chunks(payload, parameter, most, codes, *parts[0])], parts[0][1]
    else:
        good = threads.run(lambda begin, end: read_chunks(payload, parameter, most, codes, begin, end), parts)
        whole = parts[-1][1]
    if sum(good) == whole:
        return codes.size
    first = next(place for place, (begin, end) in enumerate(parts) if good[place] < end - begin)
    return int(parts[first][0] + good[first]) * chunk_of(codes.size)
