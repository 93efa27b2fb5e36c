"""Writing and reading in slow, obvious Python: what `cpu.py` must equal byte for byte. Same functions and arguments."""

import numpy as np
from numpy.typing import NDArray

from hvdspark_kernels.rice.scalar import (
    ESCAPE,
    MAX_MAGNITUDE,
    MAX_PARAMETER,
    RAW_BITS,
    chunk_of,
    code_bits,
    join,
    split,
)  # fmt: skip

__all__ = ["best_size", "most_codes", "read", "write"]


def _gaps(codes: NDArray[np.int32]) -> list[int]:
    magnitudes = np.abs(codes.astype(np.int64))
    gaps: list[int] = (np.diff(magnitudes, prepend=0) - 1).tolist()
    return gaps


def _size(codes: NDArray[np.int32], parameter: int) -> int:
    lengths = [code_bits(gap, parameter) for gap in _gaps(codes)]
    chunk = chunk_of(codes.size)
    chunks = [sum(lengths[start : start + chunk]) for start in range(0, codes.size, chunk)]
    return 8 * max(0, len(chunks) - 1) + sum(8 * -(-bits // 64) for bits in chunks)


def best_size(codes: NDArray[np.int32]) -> tuple[int, int]:
    """Try all parameters: see `hvdspark_kernels.rice.cpu.best_size`, which tries a few."""
    sizes = [_size(codes, parameter) for parameter in range(MAX_PARAMETER + 1)]
    return sizes.index(min(sizes)), min(sizes)


def most_codes(payload_bytes: int, parameter: int) -> int:
    """Return the most codes that so many bytes can hold."""
    return payload_bytes * 8 // (parameter + 2)


def write(codes: NDArray[np.int32], parameter: int, payload: NDArray[np.uint8]) -> None:
    """Write a payload of the size that `best_size` tells."""
    table: list[int] = []
    words: list[int] = []
    gaps, chunk = _gaps(codes), chunk_of(codes.size)
    for start in range(0, codes.size, chunk):
        if start:
            table += [abs(int(codes[start - 1])), len(words)]
        stream, length = 0, 0
        for place in range(start, min(start + chunk, codes.size)):
            unary, width, low = split(gaps[place], parameter)
            sign = int(codes[place] < 0)
            stream |= ((sign << width | low) << 1 | 1) << unary + length
            length += unary + width + 2
        words += [stream >> shift & (1 << 64) - 1 for shift in range(0, length, 64)]
    payload[:] = np.frombuffer(np.array(table, "<u4").tobytes() + np.array(words, "<u8").tobytes(), np.uint8)


def read(payload: NDArray[np.uint8], parameter: int, n: int, codes: NDArray[np.int32]) -> int:
    """Read what `write` wrote: see `hvdspark_kernels.rice.cpu.read`."""
    length = chunk_of(codes.size)
    chunks = -(-codes.size // length)
    table_bytes = 8 * max(0, chunks - 1)
    if payload.size < table_bytes or payload.size % 8 or not 0 <= parameter <= MAX_PARAMETER:
        return 0 if chunks else -1
    table = payload[:table_bytes].view("<u4").reshape(-1, 2).tolist()
    words = payload[table_bytes:].view("<u8").tolist()
    offsets = [0, *(offset for _, offset in table), len(words)] if chunks else [0]
    last = 0
    for chunk in range(chunks):
        begin, end = offsets[chunk : chunk + 2]
        start, stop = chunk * length, min((chunk + 1) * length, codes.size)
        if not begin <= end <= len(words):
            return start
        found = _read_chunk(words[begin:end], parameter, stop - start, last)
        if found is None or abs(found[-1]) > min(n, MAX_MAGNITUDE):
            return start
        codes[start:stop] = found
        last = abs(found[-1])
        if chunk + 1 < chunks and table[chunk][0] != last:
            return start
    return codes.size if chunks or not words else -1


def _read_chunk(words: list[int], parameter: int, count: int, last: int) -> list[int] | None:
    """Return the codes of a chunk, or None if it is not just what `write` would have written."""
    length, words = 64 * len(words), [*words, 0, 0]
    used = 0
    found = []
    for _ in range(count):
        place, shift = divmod(used, 64)
        rest = (words[place] | words[place + 1] << 64) >> shift  # a code is shorter than a word
        unary = (rest & -rest).bit_length() - 1 if rest else ESCAPE + 1
        width = parameter if unary < ESCAPE else RAW_BITS
        gap = join(unary, rest >> unary + 1 & (1 << width) - 1, parameter)
        if gap < 0:
            return None
        last += gap + 1
        found.append(-last if rest >> unary + 1 + width & 1 else last)
        used += unary + width + 2
        if used > length:
            return None
    return found if length - used < 64 and words[used // 64] >> used % 64 == 0 else None
