"""The encode pass on a GPU: each block takes a tile, and learns from the tiles before it where its codes belong.

Merrill and Garland, "Single-pass parallel prefix scan with decoupled look-back", NVIDIA NVR-2016-002, 2016: a tile
publishes how many codes it has (AGGREGATE), then how many it and all before it have (PREFIX). A tile that needs the
latter adds up the former until it meets one that knows. Tiles are numbered in the order in which blocks start, so that
what a block waits for is running already.

Nothing is reset between passes: the word of a tile carries the number of the pass, and counts for no other one.
"""

from typing import Any

import numpy as np
from numba import cuda, float32, int32, int64, uint32, uint64

from hvdspark_kernels import device
from hvdspark_kernels.threshold import scalar

__all__ = [
    "BAD",
    "COUNT",
    "FIRST_TICKET",
    "ITEMS",
    "LAST_INDEX",
    "PASS",
    "REACHED",
    "Tiles",
    "make_look_back",
    "make_tiles",
]

COUNT, PASS, BAD, REACHED = 0, 1, 2, 3
"""Places in the result of a pass: its codes, its number, the key of the first sum that is not finite; then, for each
group, how many codes stand before its end."""

LAST_INDEX = (1 << 31) - 1
"""A key is ``pass << 32 | LAST_INDEX - index``: the largest one is the lowest index of the latest pass."""

FIRST_TICKET = 1 << 32
"""``pass << 32 | tile``: what the ticket counter starts from. Pass 0 never is: words of zero belong to it."""

ITEMS = 8  # elements that a thread asks for at the same time: enough to fill the memory's queue, few enough registers
_BATCHES = 2  # of them make a tile of 4,096 elements: tiles follow each other slowly enough for the look-back
_RUN = 8  # words of bits that are counted together
_WINDOW = 64  # tiles that are looked at together
_PREFIX = 1 << 31
_MASK = (1 << 31) - 1
_TILE = (1 << 32) - 1
_INFINITY = np.float32(np.inf)

_quantise = device.jit(scalar.quantise)
_outside = device.jit(scalar.outside)
_fresh = device.fresh


class Tiles:
    """The three encode kernels for tiles of one size.

    Attributes
    ----------
    threads
        Threads of a block.
    size
        Elements of a tile.
    encode, encode_difference, encode_accumulated
        Kernels ``(residual, first, second, ends, taus, steps, codes, tickets, status, result)``; one block a tile.
    """

    def __init__(self, threads: int, size: int, encode: Any, encode_difference: Any, encode_accumulated: Any) -> None:
        self.threads, self.size = threads, size
        self.encode, self.encode_difference = encode, encode_difference
        self.encode_accumulated = encode_accumulated


@device.jit
def _group_of(ends: Any, i: Any, group: Any) -> Any:
    """Return the group of element `i`, which is `group` or a later one."""
    while i >= ends[group]:
        group += 1
    return group


@device.jit
def _bits_before(bits: Any, runs: Any, place: Any) -> Any:
    """Return how many bits are set before a place of the tile."""
    word = place >> 5
    run = word // _RUN
    found = int64(0)
    for earlier in range(run):
        found += runs[earlier]
    for earlier in range(run * _RUN, word):
        found += cuda.popc(bits[earlier])
    return found + cuda.popc(uint32(bits[word] & ((1 << (place & 31)) - 1)))


def make_look_back(window: int) -> Any:
    """Make the function that returns how many codes stand before a tile."""

    @device.jit
    def look_back(status: Any, tile: Any, number: Any, nearest: Any, total: Any, thread: Any) -> Any:
        """Look at `window` tiles at a time; every thread of the block calls it and gets the same."""
        codes = 0
        last = tile - 1
        while True:
            if thread == 0:
                nearest[0] = window
                total[0] = 0
            cuda.syncthreads()
            count = 0
            if thread < window:
                place = last - thread
                word = (number << 32) | _PREFIX  # before the first tile there is nothing
                if place >= 0:
                    word = _fresh(status, place)
                    while (word >> 32) != number:
                        word = _fresh(status, place)
                count = word & _MASK
                if word & _PREFIX:
                    cuda.atomic.min(nearest, 0, int32(thread))
            cuda.syncthreads()
            found = nearest[0]
            if thread <= found and count:
                cuda.atomic.add(total, 0, int32(count))
            cuda.syncthreads()
            codes += total[0]
            if found < window:
                return codes
            last -= window
            cuda.syncthreads()

    return look_back


def make_tiles(
    threads: int = device.THREADS, items: int = ITEMS, batches: int = _BATCHES, window: int = _WINDOW
) -> Tiles:
    """Make the kernels; tests make small ones, of which a few elements fill several tiles."""
    if items * batches > 32 or window > threads:
        raise ValueError(f"a thread has bits for 32 elements, and a window {threads} threads: {items=} {batches=}")
    size = threads * items * batches
    loads = (device.one, device.difference, None)  # None: the residual has the update already
    made = [_make_encode(load, threads, items, batches, make_look_back(window)) for load in loads]
    return Tiles(threads, size, *made)


@device.jit
def _take_ticket(tickets: Any, tiles: Any) -> Any:
    """Return ``pass << 32 | tile`` of the next tile; the last one of a pass opens the next pass."""
    ticket = cuda.atomic.add(tickets, 0, 1)
    if (ticket & _TILE) == tiles - 1:
        cuda.atomic.add(tickets, 0, FIRST_TICKET - tiles)  # nobody takes another one in this pass
    return ticket


@device.jit
def _find_group(ends: Any, base: Any, thread: Any, threads: Any, found: Any) -> Any:
    """Have the threads of a block find the group of element `base`; it is the first one unless told."""
    for group in range(thread, ends.size - 1, threads):
        if ends[group] <= base < ends[group + 1]:
            found[1] = group + 1


@device.jit
def _clear(array: Any, thread: Any, threads: Any) -> Any:
    for place in range(thread, array.size, threads):
        array[place] = 0


@device.jit
def _report_groups(
    ends: Any, base: Any, size: Any, last: Any, thread: Any, threads: Any, bits: Any, runs: Any, count: Any,
    hits: Any, room: Any, result: Any,
) -> Any:  # fmt: skip
    """Say how many codes stand before the end of each group that ends in this tile."""
    for group in range(thread, ends.size, threads):
        place = ends[group] - base
        if 0 <= place < size:
            result[REACHED + group] = min(count + _bits_before(bits, runs, place), room)
        elif last and place == size:
            result[REACHED + group] = min(count + hits, room)


@device.jit
def _publish(status: Any, tile: Any, word: Any) -> Any:
    """Tell the tiles after this one. No fence: the word says all there is to say."""
    cuda.atomic.exch(status, tile, word)


def _make_total(load: Any) -> Any:
    @device.jit
    def total_of(residual: Any, first: Any, second: Any, i: Any) -> Any:
        # An unsigned index: Numba does not look whether it counts from the end.
        return residual[uint64(i)] if load is None else residual[uint64(i)] + load(first, second, uint64(i))

    return total_of


def _make_keep(load: Any) -> Any:
    @device.jit
    def keep(residual: Any, i: Any, total: Any, tau: Any, bit: Any, marks: Any, wrong: Any) -> Any:
        """Store a total if it is finite, and note what it is in one of two masks."""
        if _outside(total, _INFINITY):
            return marks, uint32(wrong | bit)
        if load is not None:
            residual[uint64(i)] = total
        return uint32(marks | bit) if _outside(total, tau) else marks, wrong

    return keep


def _make_fast(load: Any, threads: int, items: int, batches: int) -> Any:
    total_of, keep = _make_total(load), _make_keep(load)

    @device.jit
    def fast(residual: Any, first: Any, second: Any, tau: Any, begin: Any) -> Any:
        """Take a whole tile of one group, without a branch; a batch is asked for before its first item is used."""
        totals = cuda.local.array(items, float32)
        marks, wrong = uint32(0), uint32(0)
        for batch in range(batches):
            start = begin + batch * items * threads
            for item in range(items):
                totals[item] = total_of(residual, first, second, start + item * threads)
            for item in range(items):
                bit = 1 << (batch * items + item)
                marks, wrong = keep(residual, start + item * threads, totals[item], tau, bit, marks, wrong)
        return marks, wrong

    return fast


def _make_slow(load: Any, threads: int) -> Any:
    total_of, keep = _make_total(load), _make_keep(load)

    @device.jit
    def slow(residual: Any, first: Any, second: Any, ends: Any, taus: Any, begin: Any, stop: Any, group: Any) -> Any:
        """Take a tile that is not whole or of several groups, element after element."""
        marks, wrong = uint32(0), uint32(0)
        bit = 1
        for i in range(begin, stop, threads):
            group = _group_of(ends, i, group)
            total = total_of(residual, first, second, i)
            marks, wrong = keep(residual, i, total, taus[group], bit, marks, wrong)
            bit <<= 1
        return marks, wrong

    return slow


def _make_accumulate(load: Any, threads: int, items: int, batches: int) -> Any:
    size = threads * items * batches
    fast, slow = _make_fast(load, threads, items, batches), _make_slow(load, threads)

    @device.jit
    def accumulate(
        residual: Any, first: Any, second: Any, ends: Any, taus: Any, base: Any, group: Any, thread: Any
    ) -> Any:
        """Add the update; return the rows of this thread that reach the threshold, and those that are not finite."""
        if base + size <= ends[group]:
            return fast(residual, first, second, taus[group], base + thread)
        return slow(residual, first, second, ends, taus, base + thread, min(base + size, residual.size), group)

    return accumulate


def _make_mark(threads: int) -> Any:
    @device.jit
    def mark(marks: Any, thread: Any, bits: Any, runs: Any, hits: Any) -> Any:
        """Set the bits of what this thread found, for all threads of the block."""
        cuda.atomic.add(hits, 0, cuda.popc(marks))
        while marks:
            place = (cuda.ffs(marks) - 1) * threads + thread
            cuda.atomic.or_(bits, place >> 5, uint32(1 << (place & 31)))
            cuda.atomic.add(runs, place // (32 * _RUN), 1)
            marks = uint32(marks & (marks - 1))

    return mark


def _make_send(threads: int) -> Any:
    @device.jit
    def send(
        residual: Any, ends: Any, taus: Any, steps: Any, codes: Any, base: Any, group: Any, thread: Any, marks: Any,
        bits: Any, runs: Any, count: Any,
    ) -> Any:  # fmt: skip
        """Code the marked elements, as far as there is room for codes."""
        while marks:
            place = (cuda.ffs(marks) - 1) * threads + thread
            target = count + _bits_before(bits, runs, place)
            if target < codes.size:
                i = base + place
                group = _group_of(ends, i, group)
                sign, residual[i] = _quantise(residual[i], taus[group], steps[group])
                codes[target] = sign * (i + 1)
            marks = uint32(marks & (marks - 1))

    return send


def _make_encode(load: Any, threads: int, items: int, batches: int, look_back: Any) -> Any:
    size = threads * items * batches
    words = -(-size // 32)
    num_runs = -(-words // _RUN)
    accumulate = _make_accumulate(load, threads, items, batches)
    mark, send = _make_mark(threads), _make_send(threads)

    @device.kernel(threads)
    def encode(
        residual: Any, first: Any, second: Any, ends: Any, taus: Any, steps: Any, codes: Any, tickets: Any, status: Any,
        result: Any,
    ) -> None:  # fmt: skip
        """Encode one tile."""
        mine = cuda.shared.array(2, int64)  # the ticket, and the first group of the tile
        hits = cuda.shared.array(1, int32)
        nearest = cuda.shared.array(1, int32)
        total = cuda.shared.array(1, int32)
        bits = cuda.shared.array(words, uint32)
        runs = cuda.shared.array(num_runs, int32)
        thread, last = cuda.threadIdx.x, status.size - 1
        if thread == 0:
            mine[0] = _take_ticket(tickets, status.size)
            mine[1] = 0
            hits[0] = 0
        _clear(bits, thread, threads)
        _clear(runs, thread, threads)
        cuda.syncthreads()
        tile, number = mine[0] & _TILE, mine[0] >> 32
        base = tile * size
        _find_group(ends, base, thread, threads, mine)
        cuda.syncthreads()
        marks, wrong = accumulate(residual, first, second, ends, taus, base, mine[1], thread)
        if wrong:
            i = base + (cuda.ffs(wrong) - 1) * threads + thread
            cuda.atomic.max(result, BAD, (number << 32) | (LAST_INDEX - i))
        if marks:
            mark(marks, thread, bits, runs, hits)
        cuda.syncthreads()
        if thread == 0:
            _publish(status, tile, (number << 32) | hits[0])
        count = look_back(status, tile, number, nearest, total, thread)
        if thread == 0:
            _publish(status, tile, (number << 32) | _PREFIX | (count + hits[0]))
            if tile == last:
                result[COUNT] = min(count + hits[0], codes.size)
                result[PASS] = number
        if marks:
            send(residual, ends, taus, steps, codes, base, mine[1], thread, marks, bits, runs, count)
        _report_groups(
            ends, base, size, tile == last, thread, threads, bits, runs, count, hits[0], codes.size, result
        )  # fmt: skip

    return encode
