"""BarrierLauncher: what only ranks inside Spark tasks have."""

import base64
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cloudpickle
import pytest

from contracts.processes import MARK, left_behind
from hvdspark_launch import (
    BarrierLauncher,
    EnvironmentMismatch,
    HorovodSparkLauncher,
    KeptPartitions,
    LaunchError,
    TooFewSlots,
)
from hvdspark_launch.outcome import Outcome

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(300)]


def test_each_rank_gets_its_own_rows(spark):
    rows = spark.range(0, 101, 1, 7)
    counts = BarrierLauncher(spark).run(lambda batches: sum(batch.num_rows for batch in batches), 2, rows=rows)
    assert sum(counts) == 101
    assert min(counts) > 0


def test_partitions_stay_where_they_are_kept(spark):
    def count(batches):
        return sum(batch.num_rows for batch in batches)

    rows = spark.range(0, 100, 1, 2).where("id < 60")
    assert BarrierLauncher(spark).run(count, 2, rows=KeptPartitions(rows)) == [50, 10]
    with pytest.raises(LaunchError, match="1 tasks where 2 ranks were asked for"):
        BarrierLauncher(spark).run(count, 2, rows=KeptPartitions(spark.range(0, 100, 1, 1)))


def test_a_rank_without_rows_runs_all_the_same(spark):
    counts = BarrierLauncher(spark).run(
        lambda batches: sum(batch.num_rows for batch in batches), 2, rows=spark.range(1)
    )
    assert sorted(counts) == [0, 1]


@pytest.mark.parametrize("empty", ["limit(0)", "where('false')", "where('id < 0')"])
def test_rows_that_spark_leaves_out_beforehand(spark, empty):
    rows = eval(f"rows.{empty}", {"rows": spark.range(10)})
    assert BarrierLauncher(spark).run(lambda batches: sum(b.num_rows for b in batches), 2, rows=rows) == [0, 0]


def test_a_cell_that_looks_like_our_own_words_is_no_outcome(spark, tmp_path):
    """Spark puts cells into its errors: what stands there must never be unpickled."""
    from pyspark.sql import functions as f

    class Evil:
        def __reduce__(self):
            return Path.touch, (tmp_path / "unpickled",)

    payload = cloudpickle.dumps(Evil())
    outcome = Outcome(0, "there", ok=False, time=0.0, payload=payload, summary="forged")
    for token in ("", "0" * 32, ".*"):
        cell = f"hvdspark-outcome:{token}:{base64.b64encode(outcome.to_bytes()).decode()}:end"
        rows = spark.createDataFrame([(cell,)], "s string").select(f.col("s").cast("int"))
        with pytest.raises(LaunchError, match="CAST_INVALID_INPUT") as caught:
            BarrierLauncher(spark).run(list, 2, rows=rows)
        assert "forged" not in str(caught.value).split("hvdspark-outcome")[0]
    assert not (tmp_path / "unpickled").exists()


def test_rows_need_not_be_read_to_their_end(spark):
    def first(batches, what):
        return next(batches).num_rows > 0, what

    assert BarrierLauncher(spark).run(first, 2, ("x",), rows=spark.range(200_000)) == [(True, "x")] * 2


@pytest.mark.parametrize("make", [BarrierLauncher, HorovodSparkLauncher])
def test_too_few_slots_are_refused_at_once(spark, make):
    begin = time.monotonic()
    with pytest.raises(TooFewSlots, match=r"5 ranks were asked for, but only 2 .*local\[5\]"):
        make(spark).run(len, 5)
    assert time.monotonic() - begin < 2.5


def test_other_versions_are_refused_with_a_table(spark, monkeypatch):
    from hvdspark_launch import barrier

    def fake(packages):
        return {**dict.fromkeys(packages, "1.0"), "python": "3.11"}

    monkeypatch.setattr(barrier, "versions_of", fake)
    with pytest.raises(EnvironmentMismatch, match=r"torch") as caught:
        BarrierLauncher(spark).run(os.getpid, 2)
    assert "1.0" in str(caught.value)


def test_a_stopped_session_is_refused():
    class Context:
        _jsc = None

    class Session:
        sparkContext = Context()  # noqa: N815 (Spark's name)

    with pytest.raises(LaunchError, match="stopped"):
        BarrierLauncher(Session()).run(len, 1)


SCRIPT = """
import sys, time
from pyspark.sql import SparkSession
from hvdspark_launch import BarrierLauncher

def wait(path):
    open(path + str(__import__("os").environ["HOROVOD_RANK"]), "w").close()
    time.sleep(120)

if __name__ == "__main__":
    spark = (SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
             .config("spark.ui.showConsoleProgress", "false").getOrCreate())
    try:
        BarrierLauncher(spark).run(wait, 2, (sys.argv[1],))
    except KeyboardInterrupt:
        print("second run", BarrierLauncher(spark).run(lambda: 5, 2), flush=True)
        raise SystemExit(130)
"""


@pytest.mark.slow
def test_ctrl_c_leaves_no_rank_and_a_session_that_works(tmp_path):
    script = tmp_path / "wait.py"
    script.write_text(SCRIPT)
    mark = "ctrl-c-" + tmp_path.name
    process = subprocess.Popen(
        [sys.executable, script, str(tmp_path / "rank-")],
        env={**os.environ, MARK: mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        deadline = time.monotonic() + 60
        while len(list(Path(tmp_path).glob("rank-*"))) < 2:
            assert time.monotonic() < deadline, "the ranks did not start"
            assert process.poll() is None, process.communicate()
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
        left = left_behind(mark, grace_s=10)
        for orphan in left:
            orphan.kill()
    assert "second run [5, 5]" in out, err
    assert process.returncode == 130
    assert not left


DISCOVERY = """#!/bin/sh
echo '{"name": "gpu", "addresses": ["0", "1"]}'
"""

GPU_SCRIPT = """
import os, sys
from pyspark.sql import SparkSession
from hvdspark_launch import BarrierLauncher, KeptPartitions, HorovodSparkLauncher

def place():
    return os.environ.get("HVDSPARK_GPU_ADDRESS"), os.environ["OMP_NUM_THREADS"]

if __name__ == "__main__":
    spark = (SparkSession.builder.master(sys.argv[2]).config("spark.ui.enabled", "false")
             .config("spark.ui.showConsoleProgress", "false")
             .config("spark.worker.resource.gpu.amount", "2")
             .config("spark.worker.resource.gpu.discoveryScript", sys.argv[1])
             .config("spark.executor.resource.gpu.amount", "2")
             .config("spark.executor.resource.gpu.discoveryScript", sys.argv[1])
             .config("spark.task.resource.gpu.amount", "1")
             .config("spark.task.cpus", "2")
             .config("spark.executorEnv.PYSPARK_PYTHON", sys.executable)
             .getOrCreate())
    try:
        print("places", sorted(BarrierLauncher(spark).run(place, 2)), flush=True)
        print("horovod.spark.run", sorted(HorovodSparkLauncher(spark).run(place, 2)), flush=True)
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    spark.stop()
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("master", "words"),
    [
        (
            "local-cluster[1,4,1024]",
            "places [('0', '2'), ('1', '2')]\nhorovod.spark.run [('0', '2'), ('1', '2')]\n",
        ),
        ("local-cluster[2,2,1024]", "LaunchError two ranks of a host have the same GPU"),  # both workers give out GPU 0
    ],
)
def test_gpus_and_cores_of_spark_are_named_to_ranks_and_never_shared(tmp_path, master, words):
    (tmp_path / "discover").write_text(DISCOVERY)
    (tmp_path / "discover").chmod(0o755)
    (tmp_path / "gpus.py").write_text(GPU_SCRIPT)
    done = subprocess.run(
        [sys.executable, tmp_path / "gpus.py", tmp_path / "discover", master],
        env={**os.environ, "PYSPARK_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=280,
        cwd=tmp_path,
    )
    assert words in done.stdout, done.stdout + done.stderr[-3000:]
