"""What a failed Spark job is turned into."""

import pytest

from hvdspark_launch import EnvironmentMismatch, LaunchError, RankFailed
from hvdspark_launch.barrier_rank import within
from hvdspark_launch.errors import StartTimeout
from hvdspark_launch.outcome import RankAborted, capture
from hvdspark_launch.spark_failure import raise_for, reason_of

CRASHED = """An error occurred while calling o288.collectToPython.
: org.apache.spark.SparkException: Job aborted due to stage failure: Could not recover from a failed barrier \
ResultStage. Most recent failure reason: Stage failed because barrier task ResultTask(18, 1) finished unsuccessfully.
org.apache.spark.SparkException: Python worker exited unexpectedly (crashed). Consider setting the fault handler.
\tat org.apache.spark.api.python.BasePythonRunner$ReaderIterator$$anonfun$1.applyOrElse(PythonRunner.scala:1)
Caused by: java.io.EOFException
\tat java.base/java.io.DataInputStream.readFully(DataInputStream.java:210)
"""
QUERY = """An error occurred while calling o9.collectToPython.
: org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 in stage 1.0 failed 1 times
\tat org.apache.spark.scheduler.DAGScheduler.abortStage(DAGScheduler.scala:1)
"""


def test_a_dead_worker_names_its_rank_without_the_java_trace():
    with pytest.raises(RankFailed) as caught:
        raise_for(RuntimeError(CRASHED), "host-7", "t")
    assert (caught.value.rank, caught.value.host) == (1, "host-7")
    assert caught.value.summary == "Python worker exited unexpectedly (crashed). Consider setting the fault handler."


def test_other_failures_keep_sparks_reason():
    assert reason_of(QUERY) == "Task 0 in stage 1.0 failed 1 times"
    with pytest.raises(LaunchError, match=r"Task 0 in stage 1\.0"):
        raise_for(RuntimeError(QUERY), "h", "t")
    assert reason_of("") == "Spark gave no reason"


def test_an_outcome_in_the_text_is_the_rank_s_own_word():
    def fn():
        raise KeyError("mine")

    text = CRASHED.replace("Python worker exited", f"{RankAborted(capture(fn, 0, 'there'), 't')}\nPython worker exited")
    with pytest.raises(RankFailed, match="rank 0 on there failed: KeyError") as caught:
        raise_for(RuntimeError(text), "h", "t")
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[PYTHON_VERSION_MISMATCH] Python in worker has different version: 3.9 than that in driver: 3.11", "3.9"),
        ("ModuleNotFoundError: No module named 'hvdspark_launch'", "install it on every host"),
    ],
)
def test_another_environment_is_told_as_such(text, words):
    with pytest.raises(EnvironmentMismatch, match=words):
        raise_for(RuntimeError(text), "h", "t")


def test_a_wait_is_cut_short():
    import threading

    never = threading.Event()
    with pytest.raises(StartTimeout, match="rank 3 waited"):
        within(0.05, never.wait, "rank 3 waited")
    never.set()
    assert within(5, lambda: 7, "") == 7
    with pytest.raises(ZeroDivisionError):
        within(5, lambda: 1 / 0, "")
