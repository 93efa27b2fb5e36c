"""What goes wrong around the ranks: each is told within its limit, and nothing is left of it."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from contracts.processes import MARK, left_behind
from hvdspark_launch import (
    BarrierLauncher,
    EnvironmentMismatch,
    HorovodSparkLauncher,
    LaunchError,
    LocalLauncher,
    RankFailed,
    StartTimeout,
    TooFewSlots,
)
from hvdspark_launch.spark_session import SparkSide

pytestmark = [pytest.mark.horovod, pytest.mark.timeout(300)]


def fail_beside_one_that_sleeps():
    if os.environ["HOROVOD_RANK"] == "1":
        raise KeyError("mine")
    time.sleep(90)


def check_a_rank_that_does_not_notice_is_ended(launcher):
    """The other waits for something else than Horovod, so nothing but the launcher can end it."""
    begin = time.monotonic()
    with pytest.raises(RankFailed, match=r"rank 1 on .* failed: KeyError: 'mine'") as caught:
        launcher.run(fail_beside_one_that_sleeps, 2)
    assert time.monotonic() - begin < 40
    assert isinstance(caught.value.__cause__, KeyError)


def test_local_ends_a_rank_that_does_not_notice():
    check_a_rank_that_does_not_notice_is_ended(LocalLauncher(stop_grace_s=1))


@pytest.mark.spark
@pytest.mark.parametrize("make", [BarrierLauncher, pytest.param(HorovodSparkLauncher, marks=pytest.mark.slow)])
def test_spark_ends_a_rank_that_does_not_notice(make, spark):
    check_a_rank_that_does_not_notice_is_ended(make(spark, stop_grace_s=1))
    assert BarrierLauncher(spark).run(lambda: 4, 2) == [4, 4]


def test_an_interpreter_that_does_not_come_up_is_told(tmp_path):
    # Python runs sitecustomize before anything else; it is found through the path that ranks share with the caller.
    (tmp_path / "sitecustomize.py").write_text("import time; time.sleep(60)")
    sys.path.insert(0, str(tmp_path))
    try:
        with pytest.raises(StartTimeout, match=r"rank 0, 1 was not up after 0\.5 s"):
            LocalLauncher(start_timeout_s=0.5).run(os.getpid, 2)
    finally:
        sys.path.remove(str(tmp_path))


@pytest.mark.spark
def test_ranks_for_whom_there_is_no_room_are_told(spark):
    """Two slots, one of them taken: Spark would wait for ever."""

    def hold():
        BarrierLauncher(spark).run(lambda: time.sleep(8), 1)

    taken = threading.Thread(target=hold, daemon=True)
    taken.start()
    time.sleep(2)
    begin = time.monotonic()
    with pytest.raises(StartTimeout, match=r"started none of the 2 ranks within 2 s.*2 slots.*other jobs hold them"):
        BarrierLauncher(spark, start_timeout_s=2).run(os.getpid, 2)
    assert time.monotonic() - begin < 8
    taken.join(60)
    assert BarrierLauncher(spark).run(lambda: 4, 2) == [4, 4]


@pytest.mark.spark
def test_another_python_is_refused(spark, monkeypatch):
    """Spark's own worker sees it before a rank can."""
    monkeypatch.setattr(spark.sparkContext, "pythonVer", "3.9")
    with pytest.raises(EnvironmentMismatch, match=r"3\.9"):
        BarrierLauncher(spark).run(os.getpid, 2)


@pytest.mark.spark
def test_horovod_spark_is_refused_off_the_main_thread(spark):
    caught = []

    def work():
        try:
            HorovodSparkLauncher(spark).run(os.getpid, 1)
        except LaunchError as error:
            caught.append(str(error))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join(30)
    assert caught
    assert "main thread" in caught[0]


@pytest.mark.spark
def test_rows_are_refused_where_they_cannot_act(spark):
    for launcher in (HorovodSparkLauncher(spark), LocalLauncher()):
        with pytest.raises(ValueError, match=f"rows= cannot act on {type(launcher).__name__}"):
            launcher.run(len, 1, rows=spark.range(1))
    with pytest.raises(TypeError, match="must be a Spark DataFrame, not list"):
        BarrierLauncher(spark).run(len, 1, rows=[1])


@pytest.mark.spark
def test_a_query_that_fails_is_told_in_spark_s_words(spark):
    from pyspark.sql import functions as sql

    rows = spark.range(4).select(sql.raise_error(sql.lit("bad row")).alias("x"))
    with pytest.raises(LaunchError, match="bad row") as caught:
        BarrierLauncher(spark).run(list, 2, rows=rows)
    assert "\tat " not in str(caught.value)


class _Conf(dict):
    def get(self, key, default=None):
        return super().get(key, default)


class _Session:
    """As much of a session as the checks on the driver look at."""

    class sparkContext:  # noqa: N801 (Spark's name)
        _jsc = object()

    def __init__(self, **conf):
        self.conf = _Conf({key.replace("__", "."): value for key, value in conf.items()})


def test_dynamic_allocation_is_refused_by_its_key():
    session = _Session(spark__master="spark://there:7077", spark__dynamicAllocation__enabled="true")
    with pytest.raises(LaunchError, match=r"spark\.dynamicAllocation\.enabled"):
        BarrierLauncher(session).run(len, 2)


SCRIPT = """
import sys, time
from hvdspark_launch import LocalLauncher

def wait(path):
    import os
    open(path + os.environ["HOROVOD_RANK"], "w").close()
    time.sleep(120)

LocalLauncher().run(wait, 2, (sys.argv[1],))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_no_rank_outlives_its_caller(number, tmp_path):
    script = tmp_path / "wait.py"  # without a main guard: ranks do not run it again
    script.write_text(SCRIPT)
    mark = f"local-{number.name}-{tmp_path.name}"
    process = subprocess.Popen(
        [sys.executable, script, str(tmp_path / "rank-")], env={**os.environ, MARK: mark}, stderr=subprocess.PIPE
    )
    try:
        deadline = time.monotonic() + 30
        while len(list(tmp_path.glob("rank-*"))) < 2:
            assert time.monotonic() < deadline, "the ranks did not start"
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    finally:
        process.kill()
        process.communicate()
        left = left_behind(mark, grace_s=5)
        for orphan in left:
            orphan.kill()
    assert process.returncode == -number, errors
    assert not left


def test_a_thread_left_behind_does_not_hold_the_run():
    def fn():
        threading.Thread(target=time.sleep, args=(60,)).start()
        return 5

    begin = time.monotonic()
    assert LocalLauncher(stop_grace_s=1).run(fn, 2) == [5, 5]
    assert time.monotonic() - begin < 20


def test_ranks_import_nothing_from_the_folder_that_the_caller_stands_in(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise RuntimeError('somebody else put this here')")
    monkeypatch.chdir(tmp_path)
    assert LocalLauncher().run(lambda: 4, 1) == [4]


class _Scala:
    """The slots of a cluster whose executors come one after another."""

    def __init__(self, slots):
        self.slots = iter(slots)

    def maxNumConcurrentTasks(self, _profile):  # noqa: N802 (Spark's name)
        return next(self.slots)

    def resourceProfileManager(self):  # noqa: N802
        return self

    def defaultResourceProfile(self):  # noqa: N802
        return None


def _cluster(slots, **conf):
    return SparkSide(_session_on(slots, **conf))


def _session_on(slots, **conf):
    scala = _Scala(slots)

    class Context:
        class _jsc:  # noqa: N801 (PySpark's name)
            @staticmethod
            def sc():
                return scala

    session = _Session(**{"spark__master": "spark://there:7077", **conf})
    session.sparkContext = Context()
    return session


def test_executors_that_were_asked_for_are_waited_for():
    asked = {"spark__executor__instances": "4", "spark__executor__cores": "2", "spark__task__cpus": "2"}
    _cluster([1] * 30 + [4], **asked).check_slots(4, 60)  # 3 s after the first: longer than for those nobody asked for
    with pytest.raises(TooFewSlots, match="4 ranks were asked for, but only 1"):
        _cluster([1] * 1000, **asked).check_slots(4, 2.5)


def test_executors_that_were_lost_are_waited_for():
    """Without `had_room` it would be refused after 2 s: nobody asked for more than one."""
    _cluster([1] * 30 + [4]).check_slots(4, 60, had_room=True)
    with pytest.raises(TooFewSlots, match="4 ranks were asked for, but only 1"):
        _cluster([1] * 1000).check_slots(4, 2.5, had_room=True)


@pytest.mark.parametrize("make", [BarrierLauncher, HorovodSparkLauncher])
def test_a_launcher_knows_what_there_was_room_for(make):
    """Two of three slots are gone for 3 s: a launcher that had them before waits, and another one does not."""
    launcher = make(_session_on([3] + [1] * 30 + [3]), gpus=False)
    launcher.check(3)
    launcher.check(3)
    with pytest.raises(TooFewSlots, match="3 ranks were asked for, but only 1"):
        make(_session_on([1] * 1000), gpus=False).check(3)


GPUS = {"spark__executor__resource__gpu__amount": "1", "spark__task__resource__gpu__amount": "1"}


@pytest.mark.parametrize(
    "conf",
    [
        {},
        {"spark__executor__instances": "1"},
        {"spark__cores__max": "2"},
        {"spark__executor__instances": "2", "spark__executor__cores": "8", **GPUS},
        {"spark__executor__instances": "4", "spark__executor__cores": "3", "spark__task__cpus": "4"},
        {"spark__executor__instances": "4", "spark__executor__cores": "2", "spark__cores__max": "3"},
    ],
)
def test_executors_that_were_not_asked_for_are_not(conf):
    begin = time.monotonic()
    with pytest.raises(TooFewSlots):
        _cluster([1] * 1000, **conf).check_slots(4, 60)
    assert time.monotonic() - begin < 2
