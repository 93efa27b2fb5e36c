"""The laws of `hvdspark.collectives.Collective`, one function each.

Every rank calls the same functions in the same order with its own end of one collective. A law that needs two ranks
returns at once where there is one. `LAWS` leave the collective usable; `ENDS` use it up, so each needs a fresh one.
"""

import hashlib

import numpy as np
import pytest

from contracts import alltoall, turns
from contracts.messages import check_gather, message_of
from hvdspark.errors import CollectiveError, ConfigurationError, RankMismatch, UnsupportedError

DENSE_DTYPES = ("float32", "float64", "int32", "int64")


def agree_on_bits(collective, array):
    digest = np.frombuffer(hashlib.sha256(array.tobytes()).digest(), np.uint8)
    digests = [bytes(other) for other in collective.allgather(digest)]
    assert len(set(digests)) == 1, "ranks hold different bits"


def ranks_are_numbered(collective):
    assert 0 <= collective.rank < collective.size
    assert 0 <= collective.local_rank < collective.local_size <= collective.size
    places = collective.allgather(np.array([collective.rank, collective.size], np.uint8))
    assert [tuple(place) for place in places] == [(rank, collective.size) for rank in range(collective.size)]
    hosts = [bytes(host).decode() for host in collective.allgather(np.frombuffer(collective.host.encode(), np.uint8))]
    assert hosts[collective.rank] == collective.host
    assert collective.local_size == hosts.count(collective.host)


def messages_are_ragged(collective):
    check_gather(collective, lambda rank: 100 * rank)
    check_gather(collective, lambda rank: 100 * (collective.size - 1 - rank) + 7)
    check_gather(collective, lambda rank: 1 if rank == 0 else 70_001)


def messages_may_all_be_empty(collective):
    for _ in range(3):
        check_gather(collective, lambda rank: 0)


def lengths_grow_and_shrink(collective):
    lengths = np.random.default_rng(7).integers(0, 5000, (200, collective.size))
    lengths[::20] *= 40
    for call, row in enumerate(lengths):
        check_gather(collective, lambda rank, row=row: int(row[rank]), call)


def calls_repeat(collective):
    for call in range(300):
        check_gather(collective, lambda rank: 64 + rank, call)


def one_message_is_large(collective):
    check_gather(collective, lambda rank: 20_000_000 if rank == collective.size - 1 else 3)
    check_gather(collective, lambda rank: 50)


def views_are_read_only_and_apart(collective):
    mine = message_of(collective.rank, 333)
    received = collective.allgather(mine)
    kept = mine.copy()
    mine[:] = 0
    assert np.array_equal(received[collective.rank], kept), "the result aliases the caller's message"
    for got in received:
        assert not got.flags.writeable
        assert got.ctypes.data % 8 == 0
        with pytest.raises(ValueError, match="read-only"):
            got[:] = 0


def views_last_until_the_next_call(collective):
    received = collective.allgather(message_of(collective.rank, 5000, 1))
    # Let the quicker ranks run ahead into their next call: they must not overwrite what this rank still reads.
    for rank, got in enumerate(received):
        for _ in range(50 * collective.rank):
            assert np.array_equal(got, message_of(rank, 5000, 1))
    collective.allgather(message_of(collective.rank, 5000, 2))


def sums_are_right(collective):
    size = collective.size
    for dtype in DENSE_DTYPES:
        for length in (1, 2, 7, 1000):
            array = np.arange(length).astype(dtype) * (collective.rank + 1)
            collective.allreduce_(array)
            assert array.dtype == dtype
            assert np.array_equal(array, np.arange(length) * (size * (size + 1) // 2))


def sums_are_the_same_bits(collective):
    for call, length in enumerate((1, 3, 17, 4096, 600_001)):
        generator = np.random.default_rng([collective.rank, call])
        array = (generator.standard_normal(length) * 10.0 ** generator.integers(-20, 20, length)).astype(np.float32)
        exact = array.astype(np.float64)
        magnitude = np.abs(exact)
        collective.allreduce_(array)
        agree_on_bits(collective, array)
        collective.allreduce_(exact)
        agree_on_bits(collective, exact)
        collective.allreduce_(magnitude)
        # Summands that cancel leave rounding errors of their own size.
        assert (np.abs(array - exact) <= 1e-7 * collective.size * magnitude).all()


def sums_keep_what_is_not_finite(collective):
    array = np.zeros(5, np.float32)
    if collective.rank == collective.size - 1:
        array[:] = (np.inf, -np.inf, np.nan, 1.0, 0.0)
    collective.allreduce_(array)
    assert np.array_equal(array, np.array([np.inf, -np.inf, np.nan, 1.0, 0.0], np.float32), equal_nan=True)


def halves_are_rounded_once(collective):
    size, rank = collective.size, collective.rank
    for call, length in enumerate((1, 2, 5, 1000, 70_001)):
        generator = np.random.default_rng([rank, call])
        array = (generator.standard_normal(length) * 10.0 ** generator.integers(-8, 5, length)).astype(np.float16)
        if length > 2:  # what would overflow on the way, and what is not finite
            array[:2] = (60_000 if rank < 2 else -60_000), (np.inf if rank == size - 1 else 1)
        given = [part.view(np.float16).copy() for part in collective.allgather(array.view(np.uint8))]
        total = np.zeros(length, np.float32)
        with np.errstate(over="ignore"):
            for part in given:
                total += part
            expected = total.astype(np.float16)
        collective.allreduce_(array)
        assert array.dtype == np.float16
        assert np.array_equal(array, expected, equal_nan=True)
        agree_on_bits(collective, array)
        array[:] = rank
        collective.broadcast_(array, size - 1)
        assert np.array_equal(array, np.full(length, size - 1))
    collective.allreduce_(np.empty(0, np.float16))
    nothing = np.full(3, np.nan if rank == size - 1 else 1, np.float16)
    collective.allreduce_(nothing)
    assert np.isnan(nothing).all()


def integers_wrap(collective):
    array = np.full(4, np.iinfo(np.int32).max, np.int32)
    expected = (np.full(4, np.iinfo(np.int32).max, np.int64) * collective.size).astype(np.int32)
    collective.allreduce_(array)
    assert np.array_equal(array, expected)


def empty_arrays_are_fine(collective):
    for dtype in DENSE_DTYPES:
        collective.allreduce_(np.empty(0, dtype))
        collective.broadcast_(np.empty(0, dtype), collective.size - 1)


def broadcasts_come_from_each_root(collective):
    for root in range(collective.size):
        for dtype in (*DENSE_DTYPES, "uint8"):
            for length in (1, 1000, 300_007):
                array = np.arange(length).astype(dtype) if collective.rank == root else np.zeros(length, dtype)
                collective.broadcast_(array, root)
                assert np.array_equal(array, np.arange(length).astype(dtype))


def slices_leave_their_neighbours(collective):
    array = np.full(10, collective.rank + 1, np.float64)
    collective.allreduce_(array[2:5])
    collective.broadcast_(array[5:7], 0)
    total = collective.size * (collective.size + 1) // 2
    own = collective.rank + 1
    assert array.tolist() == [own] * 2 + [total] * 3 + [1] * 2 + [own] * 3


def parts_are_collectives(collective):
    """Law 8, on however many hosts there are."""
    hosts = [bytes(host) for host in collective.allgather(np.frombuffer(collective.host.encode(), np.uint8))]
    firsts = [hosts.index(host) for host in dict.fromkeys(hosts)]
    here = [rank for rank, host in enumerate(hosts) if host == hosts[collective.rank]]
    local, leaders = collective.local(), collective.leaders()
    assert collective.local() is local
    assert (leaders is not None) == (collective.rank in firsts)
    check_part(collective, local, here)
    assert (local.rank, local.size) == (local.local_rank, local.local_size) == (collective.local_rank, len(here))
    if leaders is not None:
        check_part(collective, leaders, firsts)
        assert (leaders.local_rank, leaders.local_size) == (0, 1)
    check_gather(collective, lambda rank: 20 + rank)
    # What parts are for: sum on each host, then among hosts, and give the sum to all.
    array = np.arange(1000, dtype=np.int64) * (collective.rank + 1)
    local.allreduce_(array)
    if leaders is not None:
        leaders.allreduce_(array)
    local.broadcast_(array)
    assert np.array_equal(array, np.arange(1000) * (collective.size * (collective.size + 1) // 2))


def levels_are_collectives(collective):
    """Law 8, for trees of however many hosts there are."""
    hosts = [bytes(host) for host in collective.allgather(np.frombuffer(collective.host.encode(), np.uint8))]
    ranks, found = [hosts.index(host) for host in dict.fromkeys(hosts)], collective.levels(2)
    assert collective.levels(2) == found
    for part in found:
        groups = [ranks[start : start + 2] for start in range(0, len(ranks), 2)]
        mine = next((group for group in groups if collective.rank in group and len(group) > 1), None)
        assert (part is None) == (mine is None)
        if part is not None:
            check_part(collective, part, mine)
        ranks = [group[0] for group in groups]
    assert len(ranks) == 1


def check_part(whole, part, ranks):
    assert part.name == whole.name
    assert (part.rank, part.size, part.host) == (ranks.index(whole.rank), len(ranks), whole.host)
    assert part.timeout_s == whole.timeout_s
    with pytest.raises(UnsupportedError, match="whole"):
        part.local()
    numbers = [int(got[0]) for got in part.allgather(np.array([whole.rank], np.uint8))]
    assert numbers == ranks
    for law in PART_LAWS:
        law(part)


def barriers_hold(collective):
    for _ in range(20):
        collective.barrier()


def disagreement_is_told_to_all(collective):
    if collective.size == 1:
        return
    odd = collective.rank == collective.size - 1
    last = f"rank {collective.size - 1}"
    array = np.full(6 if odd else 5, 3, np.float32)
    with pytest.raises(RankMismatch, match=rf"(?=.*5 float32)(?=.*6 float32 on {last})"):
        collective.allreduce_(array)
    with pytest.raises(RankMismatch, match=r"(?=.*5 float32)(?=.*6 float32)"):
        collective.broadcast_(array)
    array = np.full(5, 3, np.int32 if odd else np.float32)
    with pytest.raises(RankMismatch, match=r"(?=.*float32)(?=.*int32)"):
        collective.allreduce_(array)
    with pytest.raises(RankMismatch, match=r"(?=.*from rank 0)(?=.*from rank 1)"):
        collective.broadcast_(array, 1 if odd else 0)
    with pytest.raises(RankMismatch, match=rf"(?=.*allgather)(?=.*barrier on {last})"):
        collective.barrier() if odd else collective.allgather(message_of(0, 900))
    with pytest.raises(RankMismatch, match=rf"(?=.*allgather on)(?=.*alltoall on {last})"):
        collective.alltoall([message_of(0, 9)] * collective.size) if odd else collective.allgather(message_of(0, 900))
    with pytest.raises(RankMismatch, match=rf"(?=.*alltoall on)(?=.*barrier on {last})"):
        collective.barrier() if odd else collective.alltoall([message_of(0, 9)] * collective.size)
    with pytest.raises(RankMismatch, match=r"(?=.*allreduce_)(?=.*broadcast_)"):
        collective.broadcast_(array) if odd else collective.allreduce_(array)
    with pytest.raises(RankMismatch, match=r"(?=.*allgather)(?=.*close)"):
        collective.close() if odd else collective.allgather(message_of(0, 900))
    assert np.array_equal(array, np.full(5, 3))
    sums_are_right(collective)
    check_gather(collective, lambda rank: 10 + rank)


def wrong_arrays_are_refused(collective):
    before = collective.sent_bytes
    read_only = np.zeros(4, np.float32)
    read_only.flags.writeable = False
    with pytest.raises(UnsupportedError, match="uint8"):
        collective.allgather(np.zeros(4, np.float32))
    with pytest.raises(UnsupportedError, match="contiguous"):
        collective.allgather(np.zeros(8, np.uint8)[::2])
    with pytest.raises(UnsupportedError, match="NumPy"):
        collective.allgather(b"bytes")
    for operation in (collective.allreduce_, collective.broadcast_):
        for wrong in (
            np.zeros(8, np.float32)[::2],
            np.zeros((2, 2), np.float32),
            np.zeros(4, np.complex64),
            np.zeros(4, np.int16),
            np.zeros(4, ">f4"),
            np.zeros(4, bool),
            np.array(1.0),
            [1.0, 2.0],
            read_only,
        ):
            with pytest.raises(UnsupportedError, match=operation.__name__):
                operation(wrong)
    with pytest.raises(UnsupportedError, match="allreduce_"):
        collective.allreduce_(np.zeros(4, np.uint8))
    for root in (-1, collective.size):
        with pytest.raises(ConfigurationError, match="root"):
            collective.broadcast_(np.zeros(4, np.float32), root)
    assert collective.sent_bytes == before
    collective.barrier()


def sent_bytes_are_counted(collective):
    if collective.name == "solo":
        collective.allgather(message_of(0, 1000))
        assert collective.sent_bytes == 0
        return
    counts = [collective.sent_bytes]
    collective.allgather(message_of(collective.rank, 10_000))
    counts.append(collective.sent_bytes)
    collective.allreduce_(np.zeros(10_000, np.float32))
    counts.append(collective.sent_bytes)
    collective.broadcast_(np.zeros(10_000, np.float64), collective.size - 1)
    counts.append(collective.sent_bytes)
    gathered, reduced, given = np.diff(counts)
    assert gathered >= 10_000
    assert 40_000 <= reduced < 80_000
    assert given >= (80_000 if collective.rank == collective.size - 1 else 0)


def _assert_ended(collective, how):
    for use in (
        lambda: collective.allgather(np.empty(0, np.uint8)),
        lambda: collective.alltoall([np.empty(0, np.uint8)] * collective.size),
        lambda: collective.allreduce_(np.zeros(1, np.float32)),
        lambda: collective.broadcast_(np.zeros(1, np.float32)),
        collective.barrier,
    ):
        with pytest.raises(CollectiveError, match=how):
            use()


def closing_twice_is_fine(collective):
    collective.barrier()
    collective.close()
    collective.close()
    collective.abort()
    _assert_ended(collective, "closed")


def leaving_the_context_closes(collective):
    with collective as inside:
        assert inside is collective
        check_gather(collective, lambda rank: rank + 1)
    _assert_ended(collective, "closed")


def parts_end_with_the_whole(collective):
    local, leaders = collective.local(), collective.leaders()
    local.barrier()
    if leaders is not None:
        leaders.close()
    collective.close()
    _assert_ended(local, "closed")
    for use in (collective.local, collective.leaders):
        with pytest.raises(CollectiveError, match="closed"):
            use()


PART_LAWS = [
    messages_are_ragged,
    views_last_until_the_next_call,
    sums_are_right,
    halves_are_rounded_once,
    broadcasts_come_from_each_root,
    disagreement_is_told_to_all,
    sent_bytes_are_counted,
    *alltoall.PART_LAWS,
]
LAWS = [
    ranks_are_numbered,
    messages_are_ragged,
    messages_may_all_be_empty,
    lengths_grow_and_shrink,
    calls_repeat,
    one_message_is_large,
    views_are_read_only_and_apart,
    views_last_until_the_next_call,
    sums_are_right,
    sums_are_the_same_bits,
    sums_keep_what_is_not_finite,
    halves_are_rounded_once,
    integers_wrap,
    empty_arrays_are_fine,
    broadcasts_come_from_each_root,
    slices_leave_their_neighbours,
    barriers_hold,
    disagreement_is_told_to_all,
    wrong_arrays_are_refused,
    *alltoall.LAWS,
    *turns.LAWS,
    parts_are_collectives,
    levels_are_collectives,
    sent_bytes_are_counted,
]
ENDS = [closing_twice_is_fine, leaving_the_context_closes, parts_end_with_the_whole, *turns.ENDS]
