"""Every launcher shares a host's cores out among its ranks, and leaves the user's own number alone."""

import os

import pytest

from hvdspark_launch import BarrierLauncher, HorovodSparkLauncher, LocalLauncher
from hvdspark_launch.threads import FRESH_PROCESS, REUSED_PROCESS, Threads

CORES = len(os.sched_getaffinity(0))


def seen():
    import torch

    return [os.environ.get(name) for name in FRESH_PROCESS] + [torch.get_num_threads()]


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch):
    for name in FRESH_PROCESS:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("threads", "local_size", "share"),
    [
        (Threads(), 1, CORES),
        (Threads(), 2, max(1, CORES // 2)),
        (Threads(), 10 * CORES, 1),
        (Threads(task_cpus=7), 2, 7),
        (Threads(own="3", task_cpus=7), 2, 3),
        (Threads(own=" 3,2"), 2, 3),
        (Threads(own="nonsense"), 1, CORES),
    ],
)
def test_share(threads, local_size, share):
    assert threads.share(local_size) == share


def test_variables_follow_the_share_unless_the_user_set_them():
    assert Threads(task_cpus=7).variables(1, REUSED_PROCESS, {"OMP_NUM_THREADS": "1"}) == dict.fromkeys(
        REUSED_PROCESS, "7"
    )
    found = Threads(own="3,2").variables(1, FRESH_PROCESS, {"MKL_NUM_THREADS": "5"})
    assert found == {"OMP_NUM_THREADS": "3,2", "MKL_NUM_THREADS": "5", "NUMBA_NUM_THREADS": "3"}


@pytest.mark.horovod
@pytest.mark.slow
def test_local(monkeypatch):
    half = max(1, CORES // 2)
    assert LocalLauncher().run(seen, 2) == [[str(half)] * 3 + [half]] * 2
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert LocalLauncher(env={"NUMBA_NUM_THREADS": "2"}).run(seen, 1) == [["1", "1", "2", 1]]


@pytest.mark.spark
@pytest.mark.horovod
@pytest.mark.timeout(300)
def test_barrier(spark, monkeypatch):
    # Spark itself sets OMP_NUM_THREADS to 1 here, which nobody asked for.
    assert BarrierLauncher(spark).run(seen, 1) == [[str(CORES), str(CORES), None, CORES]]
    # The workers are used again, with torch loaded.
    half = max(1, CORES // 2)
    assert BarrierLauncher(spark).run(seen, 2) == [[str(half), str(half), None, half]] * 2
    assert BarrierLauncher(spark, env={"OMP_NUM_THREADS": "3"}).run(seen, 2) == [["3", "3", None, 3]] * 2
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert BarrierLauncher(spark).run(seen, 2) == [["5", "5", None, 5]] * 2


@pytest.mark.spark
@pytest.mark.horovod
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_horovod_spark(spark):
    assert HorovodSparkLauncher(spark).run(seen, 1) == [[str(CORES)] * 3 + [CORES]]
