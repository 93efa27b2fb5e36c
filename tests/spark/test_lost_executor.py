"""An executor that dies under its rank (local-cluster: two workers, a core each): the fit goes on on another one."""

import os
import subprocess
import sys

import pytest

from contracts.processes import MARK, left_behind

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.slow, pytest.mark.timeout(300)]

SCRIPT = """
import functools, logging, os, signal, sys
from pathlib import Path
import numpy as np, psutil, torch
from pyspark.sql import SparkSession
from hvdspark import Checkpoint, Network, SharedTrainingMaster, SparkMultiLayer, TrainingHook

class Killing(TrainingHook):
    def __init__(self, file):
        self.file = file

    def pre_update(self, moment):
        if (moment.rank, moment.step) == (1, 14) and not Path(self.file).exists():
            Path(self.file).touch()
            executor = next(each for each in psutil.Process().parents() if each.name() == "java")
            assert "CoarseGrainedExecutorBackend" in " ".join(executor.cmdline())
            executor.kill()
            signal.pause()

if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, stream=sys.stdout, format="%(name)s %(message)s")
    spark = (SparkSession.builder.master("local-cluster[2,1,1024]").config("spark.ui.enabled", "false")
             .config("spark.ui.showConsoleProgress", "false").getOrCreate())
    x = np.random.default_rng(0).normal(size=(300, 6))
    table = spark.createDataFrame([(row.tolist(), int(row[:3].argmax())) for row in x],
                                  "features array<float>, label int").coalesce(1)
    found = []
    for hooks in ((), (Killing(sys.argv[1] + "-killed"),)):
        torch.manual_seed(1)
        sgd = functools.partial(torch.optim.SGD, lr=0.3, momentum=0.9)
        network = Network(torch.nn.Linear(6, 3), torch.nn.CrossEntropyLoss(), sgd)
        master = SharedTrainingMaster(batch_size_per_worker=16, num_workers=2, rng_seed=3, training_hooks=hooks,
                                      checkpoint=Checkpoint(every_steps=4), max_failures=2)
        model = SparkMultiLayer(spark, network, master)
        result = model.fit(table, epochs=3, run_directory=f"{sys.argv[1]}-{len(found)}")
        found.append([p.tolist() for p in result.network.module.parameters()])
    print("killed", Path(sys.argv[1] + "-killed").exists(), "same weights", found[0] == found[1], flush=True)
    spark.stop()
"""


def test_a_fit_outlives_an_executor(tmp_path):
    (tmp_path / "cluster.py").write_text(SCRIPT)
    mark = f"executor-{tmp_path.name}-{os.getpid()}"
    done = subprocess.run(
        [sys.executable, tmp_path / "cluster.py", tmp_path / "run"],
        env={**os.environ, "PYSPARK_PYTHON": sys.executable, MARK: mark},
        capture_output=True,
        text=True,
        timeout=290,
        cwd=tmp_path,
    )
    assert "killed True same weights True\n" in done.stdout, done.stdout + done.stderr[-6000:]
    assert "hvdspark.masters.retries attempt 1 of 3 ended, for rank " in done.stdout
    assert not left_behind(mark, grace_s=10.0)
