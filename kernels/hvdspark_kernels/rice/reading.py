"""Words into chunks of codes: four chunks at a time go down the chain from code to code; the rest comes after it."""

from typing import Any

import numpy as np

from hvdspark_kernels.jit import BLOCK, jit, load_word, trailing_zeros
from hvdspark_kernels.rice import scalar
from hvdspark_kernels.rice.gaps import LONGEST, ONE
from hvdspark_kernels.rice.row import LANES, put_codes
from hvdspark_kernels.rice.scalar import CHUNK, ESCAPE, MAX_MAGNITUDE, RAW_BITS

__all__ = ["read_chunks"]

_LANES = 4
_BLOCK_BYTES = BLOCK * (LONGEST + 1) // 8 + 8  # what a block can touch; + 1: a unary part that is too long is passed by
_STOP = np.uint64(1 << (ESCAPE + 1))

_join = jit(scalar.join)


@jit
def _step(data: Any, position: Any, parameter: Any) -> Any:
    """Return the bits from a code on, and where the next one begins."""
    window = load_word(data, np.int64(position >> np.uint64(3))) >> (position & np.uint64(7))
    after = np.uint64(trailing_zeros(window | _STOP)) + ONE
    following = position + after + (parameter + ONE)
    if after > np.uint64(ESCAPE):
        following = position + after + np.uint64(RAW_BITS + 1)
    return window, following


@jit
def _scan(data: Any, position: Any, parameter: Any, windows: Any) -> Any:
    """Find the codes of a block in one chunk."""
    for j in range(BLOCK):
        windows[j], position = _step(data, position, parameter)
    return position


@jit
def _scan_four(data: Any, one: Any, two: Any, three: Any, four: Any, parameter: Any, windows: Any) -> Any:
    """Find the codes of a block in four chunks at a time."""
    for j in range(BLOCK):
        windows[j], one = _step(data, one, parameter)
        windows[j + BLOCK], two = _step(data, two, parameter)
        windows[j + 2 * BLOCK], three = _step(data, three, parameter)
        windows[j + 3 * BLOCK], four = _step(data, four, parameter)
    return one, two, three, four


@jit
def _split_block(windows: Any, first: Any, parameter: Any, gaps: Any, signs: Any) -> Any:
    """Make gaps (plus one) and signs (0 or -1) of a block; return the sum of the gaps, and whether any is rare.

    Rare gaps, raw ones and those of 31 bits, are to be looked at one by one.
    """
    total, rare = np.uint64(0), np.uint64(0)
    mask = (ONE << parameter) - ONE
    found = windows[first : first + BLOCK]
    for j in range(BLOCK):
        unary = np.uint64(trailing_zeros(found[j] | _STOP))
        rest = found[j] >> (unary + ONE)
        short = unary < np.uint64(ESCAPE)
        gap = ((unary << parameter) | (rest & mask) if short else rest & np.uint64(MAX_MAGNITUDE)) + ONE
        gaps[j] = gap
        signs[j] = -np.int32((rest >> (parameter if short else np.uint64(RAW_BITS))) & ONE)
        total += gap
        rare |= gap >> np.uint64(RAW_BITS) if short else ONE
    return total, rare


@jit
def _all_good(windows: Any, first: Any, count: Any, parameter: Any) -> Any:
    """Tell whether so many codes of a block are such as `write` writes."""
    for window in windows[first : first + count]:
        unary = trailing_zeros(window | _STOP)
        width = parameter if unary < ESCAPE else RAW_BITS
        low = np.int64((window >> np.uint64(unary)) >> ONE) & ((np.int64(1) << width) - 1)
        if not 0 <= _join(unary, low, parameter) < MAX_MAGNITUDE:
            return False
    return True


@jit
def _finish(
    windows: Any, first: Any, gaps: Any, signs: Any, parameter: Any, count: Any, last: Any, codes: Any, place: Any
) -> Any:
    """Make codes of what was found; return the last magnitude, or -1 if one of them is no code that `write` writes."""
    total, rare = _split_block(windows, first, np.uint64(parameter), gaps, signs)
    if rare and not _all_good(windows, first, count, parameter):
        return np.int64(-1)
    if count == BLOCK:
        reached = np.uint32(last)
        for start in range(0, BLOCK, LANES):
            reached = put_codes(codes, place + start, gaps, signs, start, reached)
        return last + np.int64(total)
    for j in range(count):
        last += np.int64(gaps[j])
        codes[place + j] = (np.int32(last) ^ signs[j]) - signs[j]
    return last


@jit
def _window(data: Any, position: Any) -> Any:
    """Load the bits from a position on; zeros behind the end."""
    byte, window = np.int64(position >> np.uint64(3)), np.uint64(0)
    if byte + 8 <= data.size:
        window = load_word(data, byte)
    else:
        for k in range(byte, data.size):
            window |= np.uint64(data[k]) << np.uint64(8 * (k - byte))
    return window >> (position & np.uint64(7))


@jit
def _read_rest(data: Any, position: Any, parameter: Any, last: Any, codes: Any, begin: Any, end: Any) -> Any:
    """Read the codes ``begin..end`` of a chunk, a block at a time, and near the end of the payload one at a time."""
    windows, gaps, signs = np.empty(BLOCK, np.uint64), np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.int32)
    while begin < end:
        count = min(BLOCK, end - begin)
        if count == BLOCK and np.int64(position >> np.uint64(3)) + _BLOCK_BYTES <= data.size:
            position = _scan(data, position, np.uint64(parameter), windows)
        else:
            for j in range(count):
                windows[j] = _window(data, position)
                unary = np.uint64(trailing_zeros(windows[j] | _STOP))
                position += unary + np.uint64((parameter if unary < np.uint64(ESCAPE) else RAW_BITS) + 2)
        last = _finish(windows, 0, gaps, signs, parameter, count, last, codes, begin)
        if last < 0:
            return position, last
        begin += count
    return position, last


@jit
def _read_lanes(data: Any, positions: Any, parameter: Any, lasts: Any, codes: Any, begin: Any, lanes: Any) -> Any:
    """Read two to four whole chunks as far as all of them are far from the end of the payload; return how far.

    Where one of them is found to be bad, nothing has been done: which one it is, reading them one by one will tell.
    """
    windows = np.empty(_LANES * BLOCK, np.uint64)  # made once: making it takes as long as a block
    gaps, signs = np.empty(BLOCK, np.uint32), np.empty(BLOCK, np.int32)
    one, two, three, four = positions[0], positions[1], positions[2], positions[3]
    reached = np.empty(_LANES, np.int64)
    for lane in range(lanes):
        reached[lane] = lasts[lane]
    done = 0
    while done < CHUNK:
        furthest = max(one, two, three, four)
        if np.int64(furthest >> np.uint64(3)) + _BLOCK_BYTES > data.size:
            break
        one, two, three, four = _scan_four(data, one, two, three, four, np.uint64(parameter), windows)
        for lane in range(lanes):
            place = begin + lane * CHUNK + done
            before = reached[lane]
            reached[lane] = _finish(windows, lane * BLOCK, gaps, signs, parameter, BLOCK, before, codes, place)
            if reached[lane] < 0:
                return 0
        done += BLOCK
    positions[0], positions[1], positions[2], positions[3] = one, two, three, four
    for lane in range(lanes):
        lasts[lane] = reached[lane]
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
        whole = min(last, codes.size // CHUNK) - chunk
        lanes = max(1, min(_LANES, whole))
        for lane in range(_LANES):
            entry = 2 * (chunk + min(lane, lanes - 1) - 1)  # those too many repeat the last one
            positions[lane] = np.uint64(64 * np.int64(table[entry + 1])) if entry >= 0 else np.uint64(0)
            lasts[lane] = np.int64(table[entry]) if entry >= 0 else np.int64(0)
        done = _read_lanes(data, positions, parameter, lasts, codes, chunk * CHUNK, lanes) if lanes > 1 else 0
        for lane in range(lanes):
            begin, end = (chunk + lane) * CHUNK + done, min((chunk + lane + 1) * CHUNK, codes.size)
            position, reached = _read_rest(data, positions[lane], parameter, lasts[lane], codes, begin, end)
            following = chunk + lane + 1 < chunks
            word = np.int64(table[2 * (chunk + lane) + 1]) if following else data.size // 8
            if reached < 0 or reached > n or not _ends_well(data, position, word):
                return chunk + lane - first
            if following and np.int64(table[2 * (chunk + lane)]) != reached:
                return chunk + lane - first
        chunk += lanes
    return chunk - first
