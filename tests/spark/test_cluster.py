"""A fit on a cluster of real executors (local-cluster: two workers, a core each)."""

import os
import re
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.slow, pytest.mark.timeout(300)]

SCRIPT = """
import functools, sys
import numpy as np, torch
from pyspark.sql import SparkSession
from hvdspark import Network, SharedTrainingMaster, SparkMultiLayer
from hvdspark.errors import ConfigurationError
from hvdspark.masters.workers import count_workers
from hvdspark_launch import BarrierLauncher

if __name__ == "__main__":
    spark = (SparkSession.builder.master("local-cluster[2,1,1024]").config("spark.ui.enabled", "false")
             .config("spark.ui.showConsoleProgress", "false").getOrCreate())
    x = np.random.default_rng(0).normal(size=(300, 6))
    rows = [(row.tolist(), int(row[:3].argmax())) for row in x]
    table = spark.createDataFrame(rows, "features array<float>, label int")
    torch.manual_seed(1)
    network = Network(torch.nn.Linear(6, 3), torch.nn.CrossEntropyLoss(), functools.partial(torch.optim.SGD, lr=0.3))
    model = SparkMultiLayer(spark, network, SharedTrainingMaster(batch_size_per_worker=16))
    try:
        model.fit(table)
    except ConfigurationError as error:
        print("refused:", error, flush=True)
    result = model.fit(table, epochs=5, run_directory=sys.argv[1])
    print("ranks", len(result.stats.ranks), flush=True)  # one a host that Spark counts: both executors are on this one
    result = SparkMultiLayer(
        spark, network, SharedTrainingMaster(batch_size_per_worker=16, num_workers=2)
    ).fit(table, epochs=5, run_directory=sys.argv[1] + "-two")
    print("ranks", len(result.stats.ranks), flush=True)
    print("accuracy", model.evaluate(table).accuracy, flush=True)
    spark.stop()
    # The driver under another name than the executors: its host is no worker.
    spark = (SparkSession.builder.master("local-cluster[2,1,1024]").config("spark.ui.enabled", "false")
             .config("spark.driver.host", "localhost").getOrCreate())
    barrier = BarrierLauncher(spark)  # it waits for the executors, which have not come yet
    print("workers", count_workers(spark, barrier, -1, "auto"), count_workers(spark, barrier, 2, "auto"), flush=True)
    spark.stop()
"""


TRANSPORTS = """
import functools, sys
import numpy as np, torch
from pyspark.sql import SparkSession
from hvdspark import Network, SharedTrainingMaster, SparkMultiLayer

if __name__ == "__main__":
    spark = (SparkSession.builder.master("local-cluster[2,1,1024]").config("spark.ui.enabled", "false")
             .config("spark.ui.showConsoleProgress", "false").getOrCreate())
    x = np.random.default_rng(0).normal(size=(300, 6))
    rows = [(row.tolist(), int(row[:3].argmax())) for row in x]
    table = spark.createDataFrame(rows, "features array<float>, label int")
    found = []
    for transport in ("horovod", "torch", "torch"):
        torch.manual_seed(1)
        sgd = functools.partial(torch.optim.SGD, lr=0.3)
        network = Network(torch.nn.Linear(6, 3), torch.nn.CrossEntropyLoss(), sgd)
        master = SharedTrainingMaster(batch_size_per_worker=16, num_workers=2, rng_seed=3, transport=transport)
        result = SparkMultiLayer(spark, network, master).fit(table, run_directory=f"{sys.argv[1]}-{len(found)}")
        found.append((len(result.stats.ranks), [p.tolist() for p in result.network.module.parameters()]))
    print("ranks", found[0][0], "same weights", found[1] == found[0] == found[2], flush=True)
    spark.stop()
"""


def on_cluster(script, folder, limit_s):
    (folder / "cluster.py").write_text(script)
    return subprocess.run(
        [sys.executable, folder / "cluster.py", folder / "run"],
        env={**os.environ, "PYSPARK_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=limit_s,
        cwd=folder,
    )


def test_fit_evaluate_and_a_run_directory_that_must_be_named(tmp_path):
    done = on_cluster(SCRIPT, tmp_path, 170)
    out = done.stdout
    assert "refused: run_directory must be given on a cluster" in out, done.stderr[-4000:]
    assert "ranks 1\nranks 2\n" in out, done.stderr[-4000:]
    assert float(re.search(r"accuracy (\S+)", out)[1]) > 0.85
    assert "workers 1 2\n" in out, done.stderr[-4000:]


@pytest.mark.timeout(300)
def test_the_weights_over_torch_are_those_of_horovod(tmp_path):
    done = on_cluster(TRANSPORTS, tmp_path, 290)
    assert "ranks 2 same weights True\n" in done.stdout, done.stderr[-4000:]
