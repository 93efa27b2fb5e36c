"""Blocks: what is packed is unpacked, damage is refused, and the room neither flaps nor wastes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.messages import message_of
from hvdspark.collectives.blocks import PREFIX_BYTES, Block, Capacity, unpack
from hvdspark.collectives.intent import Intent, Operation
from hvdspark.errors import MessageError

LIMIT = 1 << 30
MIB = 1 << 20
LENGTHS = st.one_of(st.integers(0, 3000), st.integers(0, 5 * MIB))


def blocks_of(lengths):
    packed = [
        Block(LIMIT).pack(Intent(Operation.ALLGATHER, length=length), message_of(rank, length)).copy()
        for rank, length in enumerate(lengths)
    ]
    return np.concatenate(packed)


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=6))
def test_what_is_packed_is_unpacked(lengths):
    rows, messages = unpack(blocks_of(lengths), len(lengths))
    assert rows[:, 0].tolist() == [Operation.ALLGATHER] * len(lengths)
    assert rows[:, -1].tolist() == lengths
    for rank, length in enumerate(lengths):
        assert np.array_equal(messages[rank], message_of(rank, length))
        assert not messages[rank].flags.writeable


@given(st.lists(LENGTHS, min_size=1, max_size=8))
def test_a_kept_buffer_shows_nothing_of_older_messages(lengths):
    block = Block(LIMIT)
    for call, length in enumerate(lengths):
        message = message_of(0, length, call)
        packed = block.pack(Intent(Operation.ALLGATHER, length=length), message)
        assert np.array_equal(unpack(packed, 1)[1][0], message)


def test_other_operations_carry_no_message():
    packed = Block(LIMIT).pack(Intent(Operation.ALLREDUCE, 1, 0, 10**9), np.empty(0, np.uint8))
    rows, messages = unpack(packed, 1)
    assert rows.tolist() == [[Operation.ALLREDUCE, 1, 0, 10**9]]
    assert messages[0].size == 0


@given(cut=st.integers(1, 900))
def test_blocks_cut_short_are_refused(cut):
    blocks = blocks_of([10, 300])
    with pytest.raises(MessageError):
        unpack(blocks[: max(0, blocks.size - cut)], 2)


def test_blocks_too_many_are_refused():
    with pytest.raises(MessageError, match="follow the block of the last rank"):
        unpack(blocks_of([10, 300]), 1)


@given(place=st.integers(0, 15), value=st.integers(0, 255))
def test_a_damaged_magic_or_capacity_is_refused(place, value):
    blocks = blocks_of([10, 300, 7])
    first = PREFIX_BYTES + 256
    if blocks[first + place] == value:
        return
    blocks[first + place] = value
    with pytest.raises(MessageError, match=r"rank [12]"):
        unpack(blocks, 3)


@pytest.mark.parametrize("length", [-1, 257, 1 << 62, -(1 << 63)])
def test_a_length_that_cannot_be_is_refused(length):
    blocks = blocks_of([10])
    blocks[:PREFIX_BYTES].view(np.int64)[5] = length
    with pytest.raises(MessageError, match="cannot be in a block of 256"):
        unpack(blocks, 1)


@given(st.binary(max_size=400), st.integers(1, 3))
def test_noise_is_refused(noise, size):
    aligned = np.zeros(len(noise), np.uint8)
    aligned[:] = np.frombuffer(noise, np.uint8)
    with pytest.raises(MessageError):
        unpack(aligned, size)


@given(st.lists(LENGTHS, min_size=1, max_size=40))
def test_room_is_enough_and_aligned(lengths):
    capacity = Capacity(LIMIT)
    for length in lengths:
        room = capacity.fit(length)
        assert room >= length
        assert room % 64 == 0


@given(st.integers(257, 100 * MIB))
def test_fresh_room_is_at_most_a_quarter_or_half_a_mebibyte_too_large(length):
    assert Capacity(LIMIT).fit(length) - length <= min(length / 4, MIB / 2)


def test_room_does_not_flap_for_messages_of_about_one_length():
    generator = np.random.default_rng(1)
    capacity = Capacity(LIMIT)
    rooms = [capacity.fit(int(8192 * generator.uniform(0.9, 1.1))) for _ in range(5000)]
    assert np.count_nonzero(np.diff(rooms)) <= 2


def test_room_grows_at_once_and_shrinks_after_many_smaller_messages():
    capacity = Capacity(LIMIT)
    capacity.fit(1000)
    assert capacity.fit(8192) == 8192
    rooms = [capacity.fit(4096) for _ in range(1000)]
    assert rooms[:200] == [8192] * 200
    assert rooms[-1] == 4096


def test_one_huge_message_is_not_padded_for_long():
    capacity = Capacity(LIMIT)
    capacity.fit(20 * MIB)
    assert sum(capacity.fit(8192) for _ in range(100)) < 2 * MIB


@given(st.lists(st.one_of(st.integers(0, 9000), st.integers(0, 3 * MIB)), min_size=1, max_size=300))
def test_padding_between_two_changes_is_bounded(lengths):
    capacity = Capacity(LIMIT)
    room, padding = 0, 0
    for length in lengths:
        before, room = room, capacity.fit(length)
        needed = Capacity(LIMIT).fit(length)
        padding = 0 if room != before or needed == room else padding + room - needed
        assert padding <= MIB


def test_announcements_are_padded_only_while_that_costs_less_than_another_length():
    announcement, nothing = Intent(Operation.BARRIER), np.empty(0, np.uint8)
    for length, small in ((300_000, False), (3 * MIB, True)):
        block = Block(LIMIT)
        message = np.zeros(length, np.uint8)
        for _ in range(20):
            room = block.pack(Intent(Operation.ALLGATHER, length=length), message).size
            assert (block.pack(announcement, nothing).size == room) is not small
        assert block.pack(Intent(Operation.ALLGATHER, length=length), message).size == room
    for _ in range(10):
        block.pack(Intent(Operation.ALLGATHER, length=300_000), message[:300_000])  # the room shrinks
    sizes = [block.pack(announcement, nothing).size for _ in range(10)]
    assert sizes[-1] < 1000, "announcements alone keep a room that nobody needs"


def test_room_never_exceeds_its_limit():
    assert Capacity(100_000).fit(99_900) == 99_968  # the step would be 16 KiB
