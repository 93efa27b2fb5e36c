"""Words into chunks of codes: four chunks at a time go down the chain from code to code; the rest comes after it."""

from typing import Any

import numpy as np

from hvdspark_kernels.jit import BLOCK, jit, load_word, trailing_zeros
from hvdspark_kernels.rice import scalar
from hvdspark_kernels.rice.gaps import LONGEST, ONE
from hvdspark_kernels.rice.scalar import CHUNK, ESCAPE, RAW_BITS

__all__ = ["read_chunks"]

_LANES = 4
_BLOCK_BYTES = BLOCK * LONGEST // 8 + 8  # what reading a block can touch
_STOP = np.uint64(1 << (ESCAPE + 1))

_join = jit(scalar.join)


@jit
def _step(data: Any, position: Any, parameter: Any) -> Any:
    """Find the next code: return its unary part, what follows of it, and where the one after it begins."""
    window = load_word(data, np.int64(position >> np.uint64(3))) >> (position & np.uint64(7))
    after = np.uint64(trailing_zeros(window | _STOP)) + ONE
    following = position + after + (parameter + ONE)
    if after > np.uint64(ESCAPE):
        following = position + after + np.uint64(RAW_BITS + 1)
    return after - ONE, window >> after, following


@jit
def _scan(data: Any, position: Any, parameter: Any, unaries: Any, rests: Any) -> Any:
    """Find the codes of a block in one chunk."""
    for j in range(BLOCK):
        unaries[0, j], rests[0, j], position = _step(data, position, parameter)
    return position


@jit
def _scan_four(data: Any, one: Any, two: Any, three: Any, four: Any, parameter: Any, unaries: Any, rests: Any) -> Any:
    """Find the codes of a block in four chunks at a time."""
    for j in range(BLOCK):
        unaries[0, j], rests[0, j], one = _step(data, one, parameter)
        unaries[1, j], rests[1, j], two = _step(data, two, parameter)
        unaries[2, j], rests[2, j], three = _step(data, three, parameter)
        unaries[3, j], rests[3, j], four = _step(data, four, parameter)
    return one, two, three, four


@jit
def _finish(
    unaries: Any, rests: Any, gaps: Any, signs: Any, parameter: Any, count: Any, last: Any, codes: Any, place: Any
) -> Any:
    """Make codes of what was found; return the last magnitude, or -1 if one of them is no code that `write` writes."""
    if _join_block(unaries, rests, np.uint32(parameter), gaps, signs):
        for j in range(count):
            if _join(np.int64(unaries[j]), np.int64(rests[j]) & _low_mask(unaries[j], parameter), parameter) < 0:
                return np.int64(-1)
    for j in range(BLOCK):  # also those that do not count: a loop of constant length has no remainder
        last += gaps[j]
        gaps[j] = last
    if count == BLOCK:
        found = codes[place : place + BLOCK]
        for j in range(BLOCK):
            found[j] = (np.int32(gaps[j]) ^ -signs[j]) + signs[j]
    else:
        for j in range(count):
            codes[place + j] = (np.int32(gaps[j]) ^ -signs[j]) + signs[j]
    return gaps[count - 1]


@jit
def _low_mask(unary: Any, parameter: Any) -> Any:
    return (np.int64(1) << (parameter if unary < ESCAPE else RAW_BITS)) - 1


@jit
def _join_block(unaries: Any, rests: Any, parameter: Any, gaps: Any, signs: Any) -> Any:
    """Make gaps (plus one) and signs of a block; return whether any code in it is out of the ordinary."""
    mask = (np.uint32(1) << parameter) - np.uint32(1)
    odd = np.uint32(0)
    for j in range(BLOCK):
        short = unaries[j] < np.uint32(ESCAPE)
        gap = (np.uint64(unaries[j]) << np.uint64(parameter)) | np.uint64(rests[j] & mask)
        gaps[j] = np.int64(gap if short else np.uint64(rests[j] & np.uint32(0x7FFFFFFF))) + 1
        signs[j] = np.int32((rests[j] >> (parameter if short else np.uint32(RAW_BITS))) & np.uint32(1))
        odd |= np.uint32(0) if short else np.uint32(1)
    return odd


@jit
def _window(data: Any, position: Any) -> Any:
    """Load the bits from a position on; zeros behind the end."""
    byte, window = np.int64(position >> np.uint64(3)), np.uint64(0)
    for k in range(8):
        if byte + k < data.size:
            window |= np.uint64(data[byte + k]) << np.uint64(8 * k)
    return window >> (position & np.uint64(7))


@jit
def _read_rest(data: Any, position: Any, parameter: Any, last: Any, codes: Any, begin: Any, end: Any) -> Any:
    """Read the codes ``begin..end`` of a chunk, a block at a time, and near the end of the payload one at a time."""
    unaries, rests = np.empty((1, BLOCK), np.uint32), np.empty((1, BLOCK), np.uint32)
    gaps, signs = np.empty(BLOCK, np.int64), np.empty(BLOCK, np.int32)
    while begin < end:
        count = min(BLOCK, end - begin)
        if count == BLOCK and np.int64(position >> np.uint64(3)) + _BLOCK_BYTES <= data.size:
            position = _scan(data, position, np.uint64(parameter), unaries, rests)
        else:
            for j in range(count):
                window = _window(data, position)
                unary = np.uint64(trailing_zeros(window | _STOP))
                width = np.uint64(parameter if unary < np.uint64(ESCAPE) else RAW_BITS)
                unaries[0, j], rests[0, j] = unary, (window >> unary) >> ONE
                position += unary + width + np.uint64(2)
        last = _finish(unaries[0], rests[0], gaps, signs, parameter, count, last, codes, begin)
        if last < 0:
            return position, last
        begin += count
    return position, last


@jit
def _read_four(data: Any, positions: Any, parameter: Any, lasts: Any, codes: Any, begin: Any) -> Any:
    """Read four whole chunks as far as all of them are far from the end of the payload; return how far."""
    unaries, rests = np.empty((_LANES, BLOCK), np.uint32), np.empty((_LANES, BLOCK), np.uint32)
    gaps, signs = (
        np.empty(BLOCK, np.int64),
        np.empty(BLOCK, np.int32),
    )  # made once: making them takes as long as a block
    one, two, three, four = positions[0], positions[1], positions[2], positions[3]
    done = 0
    while done < CHUNK:
        furthest = max(one, two, three, four)
        if np.int64(furthest >> np.uint64(3)) + _BLOCK_BYTES > data.size:
            break
        one, two, three, four = _scan_four(data, one, two, three, four, np.uint64(parameter), unaries, rests)
        for lane in range(_LANES):
            place = begin + lane * CHUNK + done
            lasts[lane] = _finish(unaries[lane], rests[lane], gaps, signs, parameter, BLOCK, lasts[lane], codes, place)
            if lasts[lane] < 0:
                return done
        done += BLOCK
    positions[0], positions[1], positions[2], positions[3] = one, two, three, four
    return done


@jit
def _ends_well(data: Any, position: Any, end: Any) -> Any:
    """Tell whether a chunk ends in the word before `end`, and has left its unused bits zero."""
    used = position & np.uint64(63)
    if (np.int64(position) + 63) // 64 != end or end > data.size // 8:
        return False
    return used == np.uint64(0) or load_word(data, 8 * (end - 1)) >> used == np.uint64(0)


@jit
def read_chunks(data: Any, table: Any, parameter: Any, n: Any, codes: Any, first: Any, last: Any) -> Any:
    """Read chunks ``first..last``; return how many of them are good, from the first on."""
    chunks = (codes.size + CHUNK - 1) // CHUNK
    positions, lasts = np.empty(_LANES, np.uint64), np.empty(_LANES, np.int64)
    chunk = first
    while chunk < last:
        lanes = _LANES if chunk + _LANES <= last and (chunk + _LANES) * CHUNK <= codes.size else 1
        for lane in range(lanes):
            entry = 2 * (chunk + lane - 1)
            positions[lane] = np.uint64(64 * np.int64(table[entry + 1])) if entry >= 0 else np.uint64(0)
            lasts[lane] = np.int64(table[entry]) if entry >= 0 else np.int64(0)
            if np.int64(positions[lane]) > 8 * data.size:
                return chunk - first
        done = _read_four(data, positions, parameter, lasts, codes, chunk * CHUNK) if lanes == _LANES else 0
        for lane in range(lanes):
            if lasts[lane] < 0:
                return chunk - first
            begin, end = (chunk + lane) * CHUNK, min((chunk + lane + 1) * CHUNK, codes.size)
            position, reached = _read_rest(
                data, positions[lane], parameter, lasts[lane], codes, begin + done, end
            )  # fmt: skip
            following = chunk + lane + 1 < chunks
            word = np.int64(table[2 * (chunk + lane) + 1]) if following else data.size // 8
            if reached < 0 or reached > n or not _ends_well(data, position, word):
                return chunk + lane - first
            if following and np.int64(table[2 * (chunk + lane)]) != reached:
                return chunk + lane - first
        chunk += lanes
    return chunk - first
