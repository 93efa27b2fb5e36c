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
from hvdspark_kernels.rice.gaps import code_bits, gap_at, short_bits
from hvdspark_kernels.rice.reading import read_chunks
from hvdspark_kernels.rice.scalar import CHUNK, MAX_PARAMETER
from hvdspark_kernels.rice.writing import words_of, write_chunks

__all__ = ["best_size", "most_codes", "read", "write"]

_CHUNKS = 16  # chunks that are worth waking a thread for
_SAMPLED = 2048  # gaps from which a parameter is guessed


@jit
def _guess(codes: Any) -> Any:
    """Return the parameter that is best for a sample of gaps."""
    stride = max(1, codes.size // _SAMPLED)
    best, least = 0, np.int64(1) << 62
    for parameter in range(MAX_PARAMETER + 1):
        bits = np.int64(0)
        for place in range(0, codes.size, stride):
            bits += code_bits(gap_at(codes, place), parameter)
        if bits < least:
            best, least = parameter, bits
    return best


@jit
def _words(codes: Any, first: Any, sums: Any) -> Any:
    """Write how many words the codes take with the parameters ``first``, ``first + 1`` and ``first + 2``."""
    sums[:] = 0
    one, two, three = np.uint32(first), np.uint32(first + 1), np.uint32(first + 2)
    for start in range(0, codes.size, CHUNK):
        gap = gap_at(codes, start)
        low = np.uint32(code_bits(gap, first))
        middle = np.uint32(code_bits(gap, first + 1))
        high = np.uint32(code_bits(gap, first + 2))
        stop = min(start + CHUNK, codes.size)
        now, before = codes[start + 1 : stop], codes[start : stop - 1]
        for j in range(now.size):
            low += short_bits(before[j], now[j], one)
            middle += short_bits(before[j], now[j], two)
            high += short_bits(before[j], now[j], three)
        sums[0] += (np.int64(low) + 63) // 64
        sums[1] += (np.int64(middle) + 63) // 64
        sums[2] += (np.int64(high) + 63) // 64


def _table_bytes(count: int) -> int:
    return 8 * max(0, -(-count // CHUNK) - 1)


def best_size(codes: NDArray[np.int32]) -> tuple[int, int]:
    """Find the parameter that makes the payload smallest, and that size: exact.

    The parameter is guessed from a sample of 2,048 gaps, and the best of it and its two neighbours is taken: a guess
    that is two off (none was seen) would make a payload some percent larger, never a wrong one.

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
    first = min(max(_guess(codes) - 1, 0), MAX_PARAMETER - 2)
    sums = np.empty(3, np.int64)
    _words(codes, first, sums)
    least = int(np.argmin(sums))
    return first + least, _table_bytes(codes.size) + 8 * int(sums[least])


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
    table_bytes = _table_bytes(codes.size)
    table, words = payload[:table_bytes].view(np.uint32), payload[table_bytes:].view(np.uint64)
    if codes.size and not words.size:
        raise ValueError(f"{codes.size} codes cannot be written into {payload.size} bytes")
    parts = _parts(codes.size, num_threads)
    starts = {parts[0][0]: 0}
    for begin, end in parts[:-1]:  # where the words of the next thread begin
        starts[end] = starts[begin] + words_of(codes, begin, end, parameter)
    ends = threads.run(
        lambda begin, end: write_chunks(codes, parameter, table, words, begin, end, starts[begin]), parts
    )
    if ends[-1] != words.size:
        raise ValueError(f"these codes take {ends[-1]} words with parameter {parameter}, there are {words.size}")


def _parts(count: int, num_threads: int | None) -> list[tuple[int, int]]:
    """Cut the chunks of so many codes among threads."""
    return threads.ranges(-(-count // CHUNK), num_threads, 1, least=_CHUNKS)


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
        `count` if the payload is just what `write` makes of these codes; else less: the codes of the chunks up to the
        first that is not good, or -1 for bytes without codes.
    """
    table_bytes = _table_bytes(codes.size)
    if payload.size % 8 or payload.size < table_bytes or not 0 <= parameter <= MAX_PARAMETER:
        return 0 if codes.size else -1
    if not codes.size:
        return -1 if payload.size else 0
    table, data = payload[:table_bytes].view(np.uint32), payload[table_bytes:]
    parts = _parts(codes.size, num_threads)
    good = threads.run(lambda begin, end: read_chunks(data, table, parameter, n, codes, begin, end), parts)
    for (begin, end), chunks in zip(parts, good, strict=True):
        if chunks < end - begin:
            return int(begin + chunks) * CHUNK
    return int(codes.size)
