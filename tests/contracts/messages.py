"""Messages that tell every mix-up, and their exchange checked to the byte."""

import functools

import numpy as np


def message_of(rank, length, call=0):
    """Bytes that depend on rank, call and place, so that no mix-up goes unseen."""
    return np.resize(_tile(rank, call, length), length)


@functools.lru_cache(maxsize=4096)
def _tile(rank, call, length):
    return np.random.default_rng([rank, call, length]).integers(0, 256, 1021, np.uint8)


def check_gather(collective, length_of, call=0):
    """Gather messages of `length_of(rank)` bytes and compare with what every rank must have sent."""
    received = collective.allgather(message_of(collective.rank, length_of(collective.rank), call))
    assert len(received) == collective.size
    for rank, got in enumerate(received):
        assert got.dtype == np.uint8
        assert np.array_equal(got, message_of(rank, length_of(rank), call)), f"rank {rank}, call {call}"


def parcel_of(source, target, length, call=0):
    """Bytes that also depend on whom they are for."""
    return message_of(1000 * (source + 1) + target, length, call)


def check_swap(collective, length_of, call=0):
    """Give each rank `length_of(this, that)` bytes of its own, and compare with what the others must have given."""
    rank, everyone = collective.rank, range(collective.size)
    received = collective.alltoall([parcel_of(rank, target, length_of(rank, target), call) for target in everyone])
    assert len(received) == collective.size
    for source, got in enumerate(received):
        assert got.dtype == np.uint8
        assert np.array_equal(got, parcel_of(source, rank, length_of(source, rank), call)), f"rank {source}, {call}"
