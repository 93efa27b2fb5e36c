"""Where Horovod is not installed, ranks meet and train over PyTorch alone."""

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.spark, pytest.mark.slow, pytest.mark.timeout(300)]

# Read by every Python process with this folder on its path: to it Horovod is not installed.
BLOCKER = "import sys; sys.modules['horovod'] = None"
SCRIPT = """
import sys
from pyspark.sql import SparkSession
from contracts.table import fit, make_master, make_rows
from hvdspark.collectives import open_collective
from hvdspark_launch import BarrierLauncher, LocalLauncher

def rank():
    with open_collective() as world:
        return world.name, world.rank, world.size, sys.modules["horovod"]

if __name__ == "__main__":
    print("local", LocalLauncher().run(rank, 2), flush=True)
    spark = (SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
             .config("spark.ui.showConsoleProgress", "false").getOrCreate())
    print("barrier", BarrierLauncher(spark).run(rank, 2), flush=True)
    table = spark.createDataFrame(make_rows(), "id int, features array<float>, label int")
    result = fit(spark, table, master=make_master(transport="torch"), epochs=2)
    print("trained", len(result.stats.ranks), result.history[-1]["score"] < result.history[0]["score"], flush=True)
    spark.stop()
"""


def test_ranks_meet_and_train(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(BLOCKER)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join(str(entry) for entry in (tmp_path, *sys.path) if entry)
    done = subprocess.run(
        [sys.executable, script],
        env={**os.environ, "PYSPARK_PYTHON": sys.executable, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=290,
        cwd=tmp_path,
    )
    ranks = "[('torch', 0, 2, None), ('torch', 1, 2, None)]"
    assert f"local {ranks}\nbarrier {ranks}\ntrained 2 True\n" in done.stdout, done.stderr[-4000:]
