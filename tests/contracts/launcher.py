"""The laws of `hvdspark_launch.Launcher`, for any launcher that can run two ranks."""

import os
import time

import numpy as np
import pytest

from hvdspark_launch import RankFailed


class OwnError(Exception):
    """An exception class that only the caller's test module knows."""


def check_results_in_rank_order(launcher):
    def fn(a, *, b):
        import horovod.torch as hvd

        hvd.init()
        time.sleep(0.3 * (1 - hvd.rank()))  # the last rank ends first
        return hvd.rank(), hvd.size(), hvd.local_rank(), a, b

    assert launcher.run(fn, 2, ("x",), {"b": 3}) == [(0, 2, 0, "x", 3), (1, 2, 1, "x", 3)]


def check_ranks_reach_each_other(launcher):
    def fn():
        import horovod.torch as hvd
        import torch

        hvd.init()
        total = hvd.allreduce(torch.full((3,), float(hvd.rank() + 1)), op=hvd.Sum)
        ragged = hvd.allgather(torch.full((hvd.rank() * 2,), hvd.rank()))
        return total.tolist(), ragged.tolist()

    assert launcher.run(fn, 2) == [([3.0] * 3, [1, 1])] * 2


def check_torch_distributed_joins_the_ranks(launcher):
    """By its own variables; left initialised, it is gone in the next run of the same processes."""

    def fn():
        import torch
        import torch.distributed as dist  # noqa: TID251

        assert not dist.is_initialized()
        dist.init_process_group("gloo")
        total = torch.full((3,), float(dist.get_rank() + 1))
        dist.all_reduce(total)
        return dist.get_rank(), os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"], total.tolist()

    for _ in range(2):
        assert launcher.run(fn, 2) == [(rank, str(rank), "2", [3.0] * 3) for rank in range(2)]


def check_large_results(launcher):
    def fn():
        return np.arange(5_000_000, dtype=np.float32)  # 20 MB

    for found in launcher.run(fn, 2):
        np.testing.assert_array_equal(found, np.arange(5_000_000, dtype=np.float32))


def check_an_exception_arrives_while_the_other_waits(launcher):
    def fn():
        import horovod.torch as hvd
        import torch

        hvd.init()
        if hvd.rank() == 1:
            raise OwnError("the user's own mistake", 7)
        for _ in range(1000):
            hvd.allreduce(torch.ones(3))

    begin = time.monotonic()
    with pytest.raises(RankFailed, match=r"rank 1 on .* failed: .*OwnError: .*the user's own mistake") as caught:
        launcher.run(fn, 2)
    assert time.monotonic() - begin < 30
    assert caught.value.rank == 1
    assert type(caught.value.__cause__).__name__ == "OwnError"
    assert caught.value.__cause__.args == ("the user's own mistake", 7)
    assert "raise OwnError" in caught.value.traceback


def check_a_result_that_cannot_travel_names_its_rank(launcher):
    def fn():
        import threading

        import horovod.torch as hvd

        hvd.init()
        return threading.Lock() if hvd.rank() == 1 else None

    with pytest.raises(RankFailed, match=r"rank 1 .*a lock, cannot be pickled"):
        launcher.run(fn, 2)


def check_a_killed_rank_is_told(launcher):
    def fn():
        import signal

        import horovod.torch as hvd
        import torch

        hvd.init()
        hvd.allreduce(torch.ones(1))
        if hvd.rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        for _ in range(1000):
            hvd.allreduce(torch.ones(3))

    begin = time.monotonic()
    with pytest.raises(Exception, match=r"rank|process") as caught:
        launcher.run(fn, 2)
    assert isinstance(caught.value, RuntimeError)  # LaunchError or RankFailed
    assert time.monotonic() - begin < 30
    assert "\tat org.apache" not in str(caught.value)


def check_nothing_is_left_of_a_run(launcher):
    def fn():
        os.environ["HVDSPARK_TEST_LEFT"] = "1"
        return os.environ["HOROVOD_RANK"]

    def look():
        return os.environ.get("HVDSPARK_TEST_LEFT")

    before = dict(os.environ)
    assert launcher.run(fn, 2) == ["0", "1"]
    assert launcher.run(look, 2) == [None, None]
    assert dict(os.environ) == before


def check_refusals(launcher):
    import threading

    with pytest.raises(TypeError, match="fn must be a function"):
        launcher.run(3, 2)
    launcher.check(2)
    for refuse in (lambda num_proc: launcher.run(len, num_proc), launcher.check):
        with pytest.raises(ValueError, match="at least 1"):
            refuse(0)
        with pytest.raises(TypeError, match="must be an int"):
            refuse(2.0)
    lock = threading.Lock()
    with pytest.raises(TypeError, match="cannot be sent to the ranks"):
        launcher.run(lambda: lock, 2)


LAWS = [
    check_results_in_rank_order,
    check_ranks_reach_each_other,
    check_torch_distributed_joins_the_ranks,
    check_large_results,
    check_an_exception_arrives_while_the_other_waits,
    check_a_result_that_cannot_travel_names_its_rank,
    check_nothing_is_left_of_a_run,
    check_refusals,
    check_a_killed_rank_is_told,
]
