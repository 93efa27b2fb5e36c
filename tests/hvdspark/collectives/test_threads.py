"""Ranks as threads: results, failures, time limits."""

import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from contracts.collective import one_message_is_large, sums_are_right, sums_are_the_same_bits
from contracts.messages import check_gather
from hvdspark.collectives import arrays, base, open_collective, run_ranks, threads
from hvdspark.errors import CollectiveError, ConfigurationError, RankLost, RankMismatch


def rank_threads():
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("hvdspark-rank")]


def test_results_come_in_rank_order():
    assert run_ranks(lambda collective, a, b: (collective.rank, a + b), 4, 1, 2) == [(rank, 3) for rank in range(4)]
    assert rank_threads() == []


@pytest.mark.parametrize(
    ("size", "ranks_per_host", "places"),
    [
        (4, None, [(0, 4), (1, 4), (2, 4), (3, 4)]),
        (5, 2, [(0, 2), (1, 2), (0, 2), (1, 2), (0, 1)]),
        (2, 7, [(0, 2), (1, 2)]),
    ],
)
def test_hosts_can_be_made_up(size, ranks_per_host, places):
    def live(collective):
        leaders = collective.leaders()
        return (collective.local_rank, collective.local_size), collective.host, leaders and leaders.size

    found = run_ranks(live, size, ranks_per_host=ranks_per_host)
    assert [place for place, _, _ in found] == places
    num_hosts = len({host for _, host, _ in found})
    assert [leaders for _, _, leaders in found] == [None if local_rank else num_hosts for local_rank, _ in places]


def test_no_ranks_on_a_host_are_refused():
    with pytest.raises(ConfigurationError, match="ranks_per_host"):
        run_ranks(lambda collective: None, 2, ranks_per_host=0)


def test_a_rank_that_fails_frees_those_who_wait_in_a_part():
    lost = []

    def live(collective):
        local = collective.local()
        if collective.rank == 3:
            time.sleep(0.1)  # the others wait by then: rank 2 for this one, in the part of their host
            raise KeyError("mine")
        try:
            local.barrier() if collective.rank == 2 else collective.barrier()
        except RankLost:
            lost.append(collective.rank)
            raise

    with pytest.raises(KeyError, match="mine"):
        run_ranks(live, 4, ranks_per_host=2)
    assert sorted(lost) == [0, 1, 2]


def test_ranks_that_split_meet_those_that_do_not():
    def live(collective):
        with pytest.raises(RankMismatch, match=r"(?=.*split on rank 0)(?=.*barrier on rank 1)"):
            collective.barrier() if collective.rank else collective.local()
        return collective.local().size

    assert run_ranks(live, 2) == [2, 2]


def test_the_first_real_exception_is_raised_and_frees_the_others():
    lost = []

    def live(collective):
        if collective.rank == 2:
            time.sleep(0.1)  # the others wait in the barrier by then
            raise KeyError("mine")
        try:
            collective.barrier()
        except RankLost as error:
            lost.append((collective.rank, str(error)))
            raise

    start = time.monotonic()
    with pytest.raises(KeyError, match="mine") as caught:
        run_ranks(live, 4)
    assert time.monotonic() - start < 5
    assert caught.value.__notes__ == ["raised by rank 2 of 4 in run_ranks"]
    assert sorted(rank for rank, _ in lost) == [0, 1, 3]
    assert all("rank 2 gave up: KeyError: 'mine'" in text for _, text in lost)


def test_a_lost_rank_stays_lost():
    def live(collective):
        if collective.rank == 0:
            raise ValueError
        for _ in range(2):
            with pytest.raises(RankLost):
                collective.barrier()
        with pytest.raises(RankLost, match="failed already"):
            collective.close()
        collective.abort()
        with pytest.raises(CollectiveError, match="aborted"):
            collective.barrier()

    with pytest.raises(ValueError):  # noqa: PT011 - rank 0's own
        run_ranks(live, 2)


def test_a_collective_opened_after_a_failure_is_lost_too():
    def live(collective):
        if collective.rank == 0:
            raise ValueError("first")
        time.sleep(0.3)
        with pytest.raises(RankLost, match="first"):
            open_collective("threads").barrier()

    with pytest.raises(ValueError, match="first"):
        run_ranks(live, 2)


def test_system_exit_of_a_rank_reaches_the_caller():
    def live(collective):
        if collective.rank == 1:
            sys.exit("enough")
        collective.barrier()

    with pytest.raises(SystemExit, match="enough"):
        run_ranks(live, 2)


def test_the_rank_that_kept_the_others_waiting_is_named(monkeypatch):
    monkeypatch.setattr(threads, "_GRACE_S", 0.3)

    def live(collective):
        if collective.rank == 1:
            time.sleep(1)
        collective.barrier()

    with pytest.raises(CollectiveError, match=r"^run_ranks: rank 1 did not end within 0\.3 s"):
        run_ranks(live, 3, timeout_s=0.3)


def test_operations_have_a_time_limit_of_their_own():
    def live(_):
        collective = open_collective(timeout_s=0.2)
        if collective.rank == 0:
            with pytest.raises(RankLost, match=r"not all ranks came within 0\.2 s"):
                collective.barrier()
        else:
            time.sleep(0.6)
            with pytest.raises(RankLost):
                collective.barrier()

    run_ranks(live, 2)


def test_a_stuck_rank_does_not_keep_the_interpreter():
    program = (
        "import time\n"
        "from hvdspark.collectives import run_ranks, threads\n"
        "threads._GRACE_S = 0.1\n"
        "run_ranks(lambda collective: time.sleep(100 * collective.rank), 2, timeout_s=0.2)\n"
    )
    start = time.monotonic()
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert time.monotonic() - start < 20
    assert ended.returncode == 1
    assert "rank 1 did not end within 0.2 s" in ended.stderr


def test_several_collectives_stand_side_by_side():
    def live(first):
        with open_collective() as second:
            for call in range(10):
                check_gather(first, lambda rank: 10 * rank, call)
                check_gather(second, lambda rank: 500 - rank, call)
        check_gather(first, lambda rank: 3)

    run_ranks(live, 3)


def test_large_arrays_go_in_parts(monkeypatch):
    monkeypatch.setattr(arrays, "DENSE_CHUNK_BYTES", 1000)

    def live(collective):
        one_message_is_large(collective)
        sums_are_right(collective)
        array = np.arange(2000.0) * (collective.rank == 1)
        collective.broadcast_(array, 1)
        assert np.array_equal(array, np.arange(2000.0))

    run_ranks(live, 3)


def test_sums_add_in_rank_order():
    def live(collective):
        array = np.array([[1e8, 1.0, -1e8][collective.rank]], np.float32)
        collective.allreduce_(array)
        return float(array[0])

    assert run_ranks(live, 3) == [0.0] * 3  # 1e8 + 1 is 1e8 in float32
    run_ranks(sums_are_the_same_bits, 3)


def test_too_long_a_message_is_refused(monkeypatch):
    monkeypatch.setattr(base, "_MAX_TOTAL_BYTES", 1000)

    def live(collective):
        assert collective.max_message_bytes == 500 - 128
        collective.allgather(np.zeros(372, np.uint8))
        with pytest.raises(TypeError, match="373 bytes is too long"):
            collective.allgather(np.zeros(373, np.uint8))
        collective.alltoall([np.zeros(372, np.uint8)] * 2)
        with pytest.raises(TypeError, match="373 bytes is too long"):
            collective.alltoall([np.zeros(1, np.uint8), np.zeros(373, np.uint8)])
        collective.barrier()

    run_ranks(live, 2)


@pytest.mark.parametrize("size", [0, -1])
def test_no_ranks_are_refused(size):
    with pytest.raises(ConfigurationError, match="size"):
        run_ranks(print, size)
