"""Words into chunks of codes: up to four chunks at a time go down the chain from code to code; the rest comes after it.

A chunk is read in two steps for each block of 64 codes. The *scan* finds where codes begin and notes, for each, its
unary part and the bits behind that. It is a chain: one load for two codes, and chunks side by side, keep it short. Then
vector instructions make codes of the notes. What is rare (raw gaps, long ones, the last block) is made one by one.
"""

from typing import Any

import numpy as np

from hvdspark_kernels.intrinsics import load_word, trailing_zeros
from hvdspark_kernels.jit import BLOCK, jit
from hvdspark_kernels.rice import scalar
from hvdspark_kernels.rice.gaps import LONGEST, ONE
from hvdspark_kernels.rice.row import put_codes
from hvdspark_kernels.rice.scalar import ESCAPE, MAX_MAGNITUDE, RAW_BITS

__all__ = ["read_chunks"]

_LANES = 4
_BLOCK_BYTES = BLOCK * (LONGEST + 1) // 8 + 8  # what a block can touch; + 1: a unary part that is too long is passed by
_STOP = np.uint64(1 << (ESCAPE + 1))
_TWO = np.uint64(2)
_LOADED = np.uint64(57)  # bits that a load at any bit brings at least
_RARE_UNARY = np.uint64(16)  # a unary part from which a code is looked at by itself
_MOST_PARAMETER = 27  # a unary part shifted by more may not fit into 32 bits

_chunk_of = jit(scalar.chunk_of)
_join = jit(scalar.join)


@jit
def _note(data: Any, position: Any, parameter: Any, unary: Any, rests: Any, place: Any) -> Any:
    """Note a code; return where the next one begins."""
    window = load_word(data, np.int64(position >> np.uint64(3))) >> (position & np.uint64(7))
    zeros = np.uint64(trailing_zeros(window | _STOP))
    unary[place], rests[place] = np.uint32(zeros), np.uint32((window >> zeros) >> ONE)
    return position + zeros + _TWO + (parameter if zeros < np.uint64(ESCAPE) else np.uint64(RAW_BITS))


@jit
def _note_two(data: Any, position: Any, parameter: Any, unary: Any, rests: Any, place: Any) -> Any:
    """Note two codes, with one load where they are short; return where the next one begins."""
    window = load_word(data, np.int64(position >> np.uint64(3))) >> (position & np.uint64(7))
    one = np.uint64(trailing_zeros(window | _STOP))
    following = (window >> (parameter + _TWO)) >> one
    two = np.uint64(trailing_zeros(following | _STOP))
    unary[place], rests[place] = np.uint32(one), np.uint32((window >> one) >> ONE)
    unary[place + 1], rests[place + 1] = np.uint32(two), np.uint32((following >> two) >> ONE)
    bits = one + two + _TWO * (parameter + _TWO)
    if bits <= _LOADED and (one | two) < _RARE_UNARY:
        return position + bits
    position = _note(data, position, parameter, unary, rests, place)
    return _note(data, position, parameter, unary, rests, place + 1)


@jit
def _scan(data: Any, one: Any, parameter: Any, unary: Any, rests: Any) -> Any:
    """Note the codes of a block in one chunk."""
    for j in range(0, BLOCK, 2):
        one = _note_two(data, one, parameter, unary, rests, j)
    return one


@jit
def _scan_two(data: Any, one: Any, two: Any, parameter: Any, unary: Any, rests: Any) -> Any:
    """Note the codes of a block in two chunks at a time."""
    for j in range(0, BLOCK, 2):
        one = _note_two(data, one, parameter, unary, rests, j)
        two = _note_two(data, two, parameter, unary, rests, j + BLOCK)
    return one, two


@jit
def _scan_four(data: Any, one: Any, two: Any, three: Any, four: Any, parameter: Any, unary: Any, rests: Any) -> Any:
    """Note the codes of a block in four chunks at a time."""
    for j in range(0, BLOCK, 2):
        one = _note_two(data, one, parameter, unary, rests, j)
        two = _note_two(data, two, parameter, unary, rests, j + BLOCK)
        three = _note_two(data, three, parameter, unary, rests, j + 2 * BLOCK)
        four = _note_two(data, four, parameter, unary, rests, j + 3 * BLOCK)
    return one, two, three, four


@jit
def _put_some(unary: Any, rests: Any, first: Any, parameter: Any, last: Any, codes: Any, place: Any, count: Any) -> Any:
    """Make so many codes, one by one; return the last magnitude, or -1 if one is no code that `write` writes."""
    for j in range(count):
        zeros, rest = unary[first + j], rests[first + j]
        width = parameter if zeros < np.uint32(ESCAPE) else RAW_BITS
        gap = _join(np.int64(zeros), np.int64(rest) & ((np.int64(1) << width) - 1), parameter)
        last += gap + 1
        if gap < 0 or last > MAX_MAGNITUDE:
            return np.int64(-1)
        codes[place + j] = -last if (rest >> np.uint32(width)) & np.uint32(1) else last
    return last


@jit
def _put_block(unary: Any, rests: Any, first: Any, parameter: Any, last: Any, codes: Any, place: Any) -> Any:
    """Make the codes of a block; return the last magnitude, or -1 if one is no code that `write` writes."""
    reached, rare = put_codes(codes, place, unary, rests, first, np.uint32(parameter), np.uint32(last))
    if rare or parameter > _MOST_PARAMETER:
        return _put_some(unary, rests, first, parameter, last, codes, place, BLOCK)
    return np.int64(reached) if reached <= np.uint32(MAX_MAGNITUDE) else np.int64(-1)


@jit
def _read_rest(
    data: Any, position: Any, parameter: Any, last: Any, codes: Any, begin: Any, end: Any, tail: Any, notes: Any
) -> Any:
    """Read the codes ``begin..end`` of a chunk; return where it ends and its last magnitude, -1 if it is not good."""
    unary, rests = notes
    low, room = np.uint64(parameter), data.size
    copied, moved = False, np.uint64(0)
    while begin < end and last >= 0:
        count = min(BLOCK, end - begin)
        byte = np.int64(position >> np.uint64(3))
        if byte > room:
            return position + moved, np.int64(-1)
        if not copied and byte + _BLOCK_BYTES > room:  # read on in a copy that has zeros behind it
            tail[: room - byte], tail[room - byte :] = data[byte:], 0
            copied, moved, position = True, np.uint64(byte * 8), position & np.uint64(7)
            data, room = tail, room - byte
        if count == BLOCK:
            position = _scan(data, position, low, unary, rests)
            last = _put_block(unary, rests, 0, parameter, last, codes, begin)
        else:
            for j in range(count):
                position = _note(data, position, low, unary, rests, j)
            last = _put_some(unary, rests, 0, parameter, last, codes, begin, count)
        begin += count
    return position + moved, last


@jit
def _read_lanes(
    data: Any, positions: Any, parameter: Any, lasts: Any, codes: Any, begin: Any, size: Any, shortest: Any, lanes: Any,
    notes: Any,
) -> Any:  # fmt: skip
    """Read two to four chunks as far as all of them have a whole block left that is far from the end of the payload.

    Returns how far, in codes. Where one of them is found to be bad, nothing has been done: which one it is, reading
    them one by one will tell.
    """
    unary, rests = notes
    one, two, three, four = positions[0], positions[1], positions[2], positions[3]
    low = np.uint64(parameter)
    reached = np.empty(_LANES, np.int64)
    reached[:] = lasts
    done = 0
    while done + BLOCK <= shortest:
        if np.int64(max(one, two, three, four) >> np.uint64(3)) + _BLOCK_BYTES > data.size:
            break
        if lanes == 2:
            one, two = _scan_two(data, one, two, low, unary, rests)
        else:
            one, two, three, four = _scan_four(data, one, two, three, four, low, unary, rests)
        for lane in range(lanes):
            place, first = begin + lane * size + done, lane * BLOCK
            last = _put_block(unary, rests, first, parameter, reached[lane], codes, place)
            if last < 0:
                return 0
            reached[lane] = last
        done += BLOCK
    positions[0], positions[1], positions[2], positions[3] = one, two, three, four
    lasts[:] = reached
    return done


@jit
def _ends_well(data: Any, position: Any, end: Any) -> Any:
    """Tell whether a chunk ends in the word before `end`, and has left its unused bits zero."""
    used = position & np.uint64(63)
    if (np.int64(position) + 63) // 64 != end or end > data.size // 8:
        return False
    return used == np.uint64(0) or load_word(data, 8 * (end - 1)) >> used == np.uint64(0)


@jit
def read_chunks(payload: Any, parameter: Any, n: Any, codes: Any, first: Any, last: Any) -> Any:
    """Read chunks ``first..last``; return how many of them are good, from the first on."""
    size = _chunk_of(codes.size)
    chunks = (codes.size + size - 1) // size
    table, data = payload[: 8 * (chunks - 1)].view(np.uint32), payload[8 * (chunks - 1) :]
    positions, lasts = np.empty(_LANES, np.uint64), np.empty(_LANES, np.int64)
    tail = np.empty(3 * _BLOCK_BYTES, np.uint8)
    notes = (np.empty(_LANES * BLOCK, np.uint32), np.empty(_LANES * BLOCK, np.uint32))  # making them costs a block
    chunk = first
    while chunk < last:
        lanes = min(_LANES, last - chunk)
        for lane in range(_LANES):
            entry = 2 * (chunk + min(lane, lanes - 1) - 1)  # those too many repeat the last one
            positions[lane] = np.uint64(64 * np.int64(table[entry + 1])) if entry >= 0 else np.uint64(0)
            lasts[lane] = np.int64(table[entry]) if entry >= 0 else np.int64(0)
        begin = chunk * size
        shortest = min(size, codes.size - (begin + (lanes - 1) * size))
        done = 0
        if lanes > 1:
            done = _read_lanes(data, positions, parameter, lasts, codes, begin, size, shortest, lanes, notes)
        for lane in range(lanes):
            start, stop = (chunk + lane) * size + done, min((chunk + lane + 1) * size, codes.size)
            position, reached = _read_rest(
                data, positions[lane], parameter, lasts[lane], codes, start, stop, tail, notes
            )
            following = chunk + lane + 1 < chunks
            word = np.int64(table[2 * (chunk + lane) + 1]) if following else data.size // 8
            if reached < 0 or reached > n or not _ends_well(data, position, word):
                return chunk + lane - first
            if following and np.int64(table[2 * (chunk + lane)]) != reached:
                return chunk + lane - first
        chunk += lanes
    return chunk - first
