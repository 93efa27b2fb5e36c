"""One process per GPU, on clusters of real executors whose GPUs are a script's invention."""

import re
import sys

import cloudpickle
import pytest
import torch

from contracts.processes import launched
from hvdspark.errors import ConfigurationError
from hvdspark.masters.workers import count_workers
from hvdspark_launch import BarrierLauncher, HorovodSparkLauncher, InlineLauncher, LocalLauncher
from hvdspark_launch.outcome import Outcome
from hvdspark_launch.spark_gpus import profile_of_one_gpu

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.slow, pytest.mark.timeout(300)]

# Each worker that asks gets the next card, as on a host whose workers each own one.
DISCOVERY = """#!/bin/sh
n=0
while ! mkdir "$0-$n" 2>/dev/null; do n=$((n + 1)); done
echo "{\\"name\\": \\"gpu\\", \\"addresses\\": [\\"$n\\"]}"
"""

SCRIPT = """
import os, sys
import torch
from pyspark.sql import SparkSession
from hvdspark import Network, SharedTrainingMaster, SparkMultiLayer
from hvdspark.masters.placement import choose_launcher
from hvdspark.masters.workers import count_workers
from hvdspark_launch import BarrierLauncher
from hvdspark_launch.spark_gpus import profile_of_one_gpu

folder = sys.argv[1]

def optimizer(parameters):
    if torch.get_num_threads() != 3:
        raise ValueError(f"{torch.get_num_threads()} threads")
    return torch.optim.SGD(parameters, lr=0.01)

def fit(spark, **options):
    table = spark.createDataFrame([([float(i), 1.0], i % 2) for i in range(40)], "features array<float>, label int")
    network = Network(torch.nn.Linear(2, 2), torch.nn.CrossEntropyLoss(), optimizer)
    model = SparkMultiLayer(spark, network, SharedTrainingMaster(batch_size_per_worker=10, **options))
    return len(model.fit(table, run_directory=folder + "/run").stats.ranks)

def used(spark, profile):
    # Where the tasks of a stage would use a network, if torch saw two cards.
    def look(_):
        from hvdspark.masters import device
        real, device.visible_gpus = device.visible_gpus, lambda: ("GPU-a", "GPU-b")
        try:
            return [str(device.task_device("auto"))]
        finally:  # other stages have the same workers
            device.visible_gpus = real
            device._turns.clear()

    rdd = spark.sparkContext.parallelize(range(4), 4).map(abs)
    return sorted(set((rdd.withResources(profile) if profile else rdd).mapPartitions(look).collect()))

def score(spark, profile, device):
    network = Network(torch.nn.Linear(2, 2), torch.nn.CrossEntropyLoss(), optimizer)
    pairs = spark.sparkContext.parallelize([(i, [float(i), 1.0]) for i in range(4)], 2).map(tuple)
    model = SparkMultiLayer(spark, network, device=device)
    return len(model.feed_forward_with_key(pairs.withResources(profile)).collect())

def place():
    return os.environ.get("HVDSPARK_GPU_ADDRESS"), os.environ["OMP_NUM_THREADS"]

def say(what, call):
    try:
        print(what, call(), flush=True)
    except Exception as error:
        print(what, type(error).__name__, str(error).splitlines()[0], flush=True)

if __name__ == "__main__":
    builder = SparkSession.builder.master("local-cluster[2,2,1024]")
    for name, value in {
        "ui.enabled": "false", "ui.showConsoleProgress": "false", "executorEnv.OMP_NUM_THREADS": "3",
        "executor.resource.gpu.amount": "1", "worker.resource.gpu.amount": "1",
        "worker.resource.gpu.discoveryScript": folder + "/discover",
    }.items():
        builder = builder.config("spark." + name, value)
    spark = builder.getOrCreate()
    # The first fit of a session: its executors are still to come.
    say("a GPU each", lambda: fit(spark, device="auto"))
    say("used with", lambda: used(spark, profile_of_one_gpu(spark)))
    say("used without", lambda: used(spark, None))
    say("insisting", lambda: fit(spark, device="cuda", num_workers=2))
    for device in ("auto", "cpu"):
        say("outputs on " + device, lambda: score(spark, profile_of_one_gpu(spark), device))
    try:
        score(spark, profile_of_one_gpu(spark), "cuda")
    except Exception as error:
        print("outputs on cuda", [line for line in str(error).splitlines() if "device='cuda', but" in line][0])
    say("places", lambda: sorted(BarrierLauncher(spark).run(place, 2)))
    say("without", lambda: BarrierLauncher(spark, gpus=False).run(place, 2))
    for device in ("auto", "cuda:0", "cpu"):
        launcher = choose_launcher("barrier", spark, device)
        say("ranks on " + device, lambda: count_workers(spark, launcher, -1, device))
        say("three on " + device, lambda: launcher.check(3))
    manager = spark.sparkContext._jsc.sc().resourceProfileManager()
    say("no second profile", lambda: manager.resourceProfileFromId(2))
    spark.stop()
"""


def test_the_stage_asks_for_gpus_where_the_session_does_not(tmp_path):
    (tmp_path / "discover").write_text(DISCOVERY)
    (tmp_path / "discover").chmod(0o755)
    (tmp_path / "gpus.py").write_text(SCRIPT)
    # Executors run what PYSPARK_PYTHON names.
    code, output = launched("none", 1, tmp_path / "gpus.py", str(tmp_path), limit_s=280, PYSPARK_PYTHON=sys.executable)
    assert code == 0, output
    for words in (
        "a GPU each 2\n",
        "although Spark gave it GPU",
        "used with ['cuda:0', 'cuda:1']\n",
        "used without ['cuda:0', 'cuda:1']\n",
        "outputs on auto 4\n",
        "outputs on cpu 4\n",
        "device='cuda', but torch sees no GPU on ",
        "places [('0', '3'), ('1', '3')]\n",
        "without [(None, '3'), (None, '3')]\n",
        "ranks on auto 2\nthree on auto TooFewSlots 3 ranks were asked for, but only 2 tasks can run at once; each ",
        "ranks on cuda:0 2\nthree on cuda:0 TooFewSlots",
        "ranks on cpu 1\nthree on cpu None\n",
        "no second profile Py4JJavaError",
    ):
        assert words in output, output
    # Each rank says so, in its executor's log.
    assert re.search(r"insisting RankFailed .*torch sees no GPU on rank 0 on", output), output


class Session:
    """A real session whose configuration asks for GPUs."""

    def __init__(self, spark, executor, task):
        self.sparkContext = spark.sparkContext
        self._found = {"spark.executor.resource.gpu.amount": executor, "spark.task.resource.gpu.amount": task}
        self._spark = spark
        self.conf = self

    def get(self, key, default=None):
        return self._found.get(key) or self._spark.conf.get(key, default)


@pytest.mark.parametrize(("executor", "task"), [("1", None), ("2", "0.5"), ("2", "2")])
def test_where_spark_cannot_a_warning_says_why(spark, caplog, executor, task):
    launcher = BarrierLauncher(Session(spark, executor, task))
    launcher.check(2)
    launcher.check(2)
    assert len(caplog.records) == 1
    assert "TaskResourceProfiles are only supported for Standalone, Yarn and Kubernetes" in caplog.text
    BarrierLauncher(Session(spark, executor, task), gpus=False).check(2)
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("executor", "task"), [(None, None), ("4", "1")])
def test_nothing_is_asked_for_where_nothing_is_missing(spark, caplog, executor, task):
    assert profile_of_one_gpu(Session(spark, executor, task)) is None
    assert not caplog.records


@pytest.mark.parametrize(("gpus", "task", "warned"), [(True, None, True), (False, None, False), (True, "1", False)])
def test_horovods_own_launcher_says_that_it_cannot_ask(spark, monkeypatch, caplog, gpus, task, warned):
    outcome = Outcome(0, "a", ok=True, time=0.0, payload=cloudpickle.dumps(None))
    monkeypatch.setattr(HorovodSparkLauncher, "_outcomes", lambda *_: [outcome])
    launcher = HorovodSparkLauncher(Session(spark, "1", task), gpus=gpus)
    launcher.run(len, 1)
    assert ("horovod.spark.run cannot ask for GPUs" in caplog.text) == warned


def test_ranks_of_this_host_where_none_are_named(spark, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    for launcher in (BarrierLauncher(spark), LocalLauncher()):
        assert count_workers(spark, launcher, -1, "auto") == 3
        assert count_workers(spark, launcher, 2, "auto") == 2
        assert count_workers(spark, launcher, -1, "cpu") == 1
    assert count_workers(spark, InlineLauncher(), -1, "auto") == 1
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert count_workers(spark, LocalLauncher(), -1, "auto") == 1


def test_hosts_that_come_and_go_are_not_counted():
    class Elastic:
        conf = {"spark.master": "yarn", "spark.dynamicAllocation.enabled": "true"}  # noqa: RUF012

    launcher = HorovodSparkLauncher.__new__(HorovodSparkLauncher)
    with pytest.raises(ConfigurationError, match=r"num_workers must be given while spark\.dynamicAllocation"):
        count_workers(Elastic(), launcher, -1, "auto")
