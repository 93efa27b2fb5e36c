"""Chunks of codes into words: what can be done for many codes at a time comes before the chain of appending them."""

from typing import Any

import numpy as np

from hvdspark_kernels.jit import BLOCK, jit
from hvdspark_kernels.rice import scalar
from hvdspark_kernels.rice.gaps import ONE, gap_at, short_bits
from hvdspark_kernels.rice.scalar import ESCAPE, RAW_BITS

__all__ = ["words_of", "write_chunks"]

_split = jit(scalar.split)
_chunk_of = jit(scalar.chunk_of)


@jit
def _prepare(codes: Any, begin: Any, parameter: Any, bits: Any, lengths: Any) -> Any:
    """Make the bits of a block of codes; return the length of the longest."""
    longest = np.uint32(0)
    mask = (np.uint32(1) << parameter) - np.uint32(1)
    now, before = codes[begin : begin + BLOCK], codes[begin - 1 : begin + BLOCK - 1]
    for j in range(BLOCK):
        gap = np.uint32(abs(now[j]) - abs(before[j]) - np.int32(1))
        quotient = gap >> parameter
        short = quotient < np.uint32(ESCAPE)
        unary = quotient if short else np.uint32(ESCAPE)
        width = parameter if short else np.uint32(RAW_BITS)
        low = gap & mask if short else gap
        tail = (np.uint64(np.uint32(now[j]) >> np.uint32(31)) << np.uint64(width)) | np.uint64(low)
        bits[j] = ((tail << ONE) | ONE) << np.uint64(unary)
        lengths[j] = unary + width + np.uint32(2)
        longest = max(longest, lengths[j])
    return longest


@jit
def _append(bits: Any, length: Any, last: Any, fill: Any, words: Any, place: Any) -> Any:
    """Append up to 64 bits to the word `last`, of which `fill` bits are used; return it, its fill and its place."""
    low = last | (bits << fill)
    words[min(place, np.uint64(words.size - 1))] = low  # inside, also if the payload was planned for other codes
    high = (bits >> ONE) >> (np.uint64(63) - fill)
    fill += length
    full = fill >> np.uint64(6)
    taken = np.uint64(0) - full  # all ones or none: a branch on it would be mispredicted every third time
    return (high & taken) | (low & ~taken), fill & np.uint64(63), place + full


@jit
def _append_one(codes: Any, i: Any, parameter: Any, last: Any, fill: Any, words: Any, place: Any) -> Any:
    """Append code number `i`."""
    unary, width, low = _split(gap_at(codes, i), parameter)
    bits = np.uint64((((np.int64(codes[i] < 0) << width) | low) << 1) | 1) << np.uint64(unary)
    return _append(bits, np.uint64(unary + width + 2), last, fill, words, place)


@jit
def _write_chunk(codes: Any, begin: Any, end: Any, parameter: Any, words: Any, start: Any) -> Any:
    """Write a chunk to ``words[start:]`` and return where it ends."""
    bits, lengths = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint32)
    last, fill, place = np.uint64(0), np.uint64(0), np.uint64(start)
    first = begin or min(1, end)  # a code has another one before it in all blocks
    for i in range(begin, first):
        last, fill, place = _append_one(codes, i, parameter, last, fill, words, place)
    whole = first + (end - first) // BLOCK * BLOCK
    for block in range(first, whole, BLOCK):
        if _prepare(codes, block, np.uint32(parameter), bits, lengths) <= np.uint32(32):
            for j in range(0, BLOCK, 2):  # two codes fit into a word: half as many steps depend on each other
                pair = bits[j] | (bits[j + 1] << np.uint64(lengths[j]))
                both = np.uint64(lengths[j] + lengths[j + 1])
                last, fill, place = _append(pair, both, last, fill, words, place)
        else:
            for j in range(BLOCK):
                last, fill, place = _append(bits[j], np.uint64(lengths[j]), last, fill, words, place)
    for i in range(whole, end):
        last, fill, place = _append_one(codes, i, parameter, last, fill, words, place)
    if fill:
        words[min(place, np.uint64(words.size - 1))] = last
        place += ONE
    return np.int64(place)


@jit
def words_of(codes: Any, first: Any, last: Any, parameter: Any) -> Any:
    """Return how many words the chunks ``first..last`` take."""
    total, size = np.int64(0), _chunk_of(codes.size)
    for chunk in range(first, last):
        start, stop = chunk * size, min((chunk + 1) * size, codes.size)
        bits, short = short_bits(np.uint32(gap_at(codes, start)), np.uint32(parameter)), np.uint32(parameter)
        now, before = codes[start + 1 : stop], codes[start : stop - 1]
        for j in range(now.size):
            bits += short_bits(np.uint32(abs(now[j]) - abs(before[j]) - np.int32(1)), short)
        total += (np.int64(bits) + 63) // 64
    return total


@jit
def write_chunks(codes: Any, parameter: Any, payload: Any, first: Any, last: Any, start: Any) -> Any:
    """Write the chunks ``first..last`` and their table's entries, from word `start` on; return the byte reached."""
    size = _chunk_of(codes.size)
    table_bytes = 8 * ((codes.size + size - 1) // size - 1)
    table, words = payload[:table_bytes].view(np.uint32), payload[table_bytes:].view(np.uint64)
    for chunk in range(first, last):
        if chunk:
            table[2 * chunk - 2] = abs(np.int64(codes[chunk * size - 1]))
            table[2 * chunk - 1] = start
        start = _write_chunk(codes, chunk * size, min((chunk + 1) * size, codes.size), parameter, words, start)
    return np.int64(table_bytes + 8 * start)
