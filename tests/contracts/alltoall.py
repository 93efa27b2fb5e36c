"""The laws of `Collective.alltoall`; the suite of collectives takes them in."""

import numpy as np
import pytest

from contracts.messages import check_gather, check_swap, message_of, parcel_of
from hvdspark.errors import UnsupportedError


def parcels_are_ragged(collective):
    check_swap(collective, lambda source, target: 100 * source + 10 * target)
    check_swap(collective, lambda source, target: 7 + source if source < target else 0)
    check_swap(collective, lambda source, target: 70_001 if target == collective.size - 1 else 1)
    check_swap(collective, lambda source, target: 0)
    check_swap(collective, lambda source, target: 333 if source == target else 0)


def parcels_grow_and_shrink(collective):
    lengths = np.random.default_rng(8).integers(0, 3000, (200, collective.size, collective.size))
    lengths[np.random.default_rng(9).random(lengths.shape) < 0.2] = 0
    lengths[::20] *= 40
    for call, table in enumerate(lengths):
        check_swap(collective, lambda source, target, table=table: int(table[source, target]), call)
        if call % 10 == 0:
            check_gather(collective, lambda rank, table=table: int(table[rank, 0]), call)


def one_parcel_is_large(collective):
    check_swap(collective, lambda source, target: 20_000_000 if (source, target) == (0, collective.size - 1) else 3)
    check_swap(collective, lambda source, target: 50)


def parcels_are_read_only_and_apart(collective):
    mine = [parcel_of(collective.rank, target, 333 + target) for target in range(collective.size)]
    received = collective.alltoall(tuple(mine))
    for message in mine:
        message[:] = 0
    for source, got in enumerate(received):
        assert np.array_equal(got, parcel_of(source, collective.rank, 333 + collective.rank)), "an alias"
        assert not got.flags.writeable
        assert got.ctypes.data % 8 == 0
        with pytest.raises(ValueError, match="read-only"):
            got[:] = 0


def parcels_last_until_the_next_call(collective):
    rank, everyone = collective.rank, range(collective.size)
    for call in (1, 2):  # the second overwrites what the first has left
        received = collective.alltoall([parcel_of(rank, target, 5000, call) for target in everyone])
        for source, got in enumerate(received):
            for _ in range(50 * rank):
                assert np.array_equal(got, parcel_of(source, rank, 5000, call))
    collective.barrier()


def wrong_parcels_are_refused(collective):
    before = collective.sent_bytes
    nothing = np.empty(0, np.uint8)
    for wrong, why in (
        ([nothing] * (collective.size + 1), f"{collective.size} of them, there are {collective.size + 1}"),
        ([nothing] * (collective.size - 1), "one message a rank"),
        ([nothing] * (collective.size - 1) + [np.zeros(4, np.float32)], "uint8"),
        ([np.zeros(8, np.uint8)[::2]] * collective.size, "contiguous"),
        ([b"bytes"] * collective.size, "NumPy"),
        (np.zeros((collective.size, 4), np.uint8), "sequence"),
        (iter([nothing] * collective.size), "sequence"),
    ):
        with pytest.raises(UnsupportedError, match=f"alltoall.*{why}"):
            collective.alltoall(wrong)
    assert collective.sent_bytes == before
    collective.barrier()


def parcels_to_others_are_counted(collective):
    size = collective.size
    collective.allgather(message_of(0, 300_000))  # Horovod's announcements are as long as its block from now on
    before = collective.sent_bytes
    collective.alltoall([message_of(0, 999)] * size)
    between = collective.sent_bytes
    collective.alltoall([message_of(0, 1_000_000 if target == collective.rank else 0) for target in range(size)])
    after = collective.sent_bytes
    if collective.name == "solo":
        assert after == 0
        return
    announced = after - between
    assert 0 < announced < 400_000, "a rank's message to itself was counted"
    assert 999 * (size - 1) <= between - before - announced <= 1000 * (size - 1)


PART_LAWS = [parcels_are_ragged, parcels_last_until_the_next_call, parcels_to_others_are_counted]
LAWS = [
    parcels_grow_and_shrink,
    one_parcel_is_large,
    parcels_are_read_only_and_apart,
    wrong_parcels_are_refused,
    *PART_LAWS,
]
