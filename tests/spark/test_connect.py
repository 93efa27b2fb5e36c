"""Under Spark Connect: a session that has no SparkContext, nor a way to count slots."""

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.slow, pytest.mark.timeout(300)]

SCRIPT = """
import functools, sys
import numpy as np, torch
from pyspark.sql import SparkSession
from hvdspark import Network, SharedTrainingMaster, SparkMultiLayer
from hvdspark.errors import ConfigurationError, RankFailed, StartTimeout
from hvdspark.ml import NetworkEstimator, NetworkModel
from hvdspark_launch import BarrierLauncher

def fail():
    raise KeyError("mine")

def refused(kind, call):
    try:
        call()
    except kind as error:
        print("refused", kind.__name__, str(error).splitlines()[0], repr(error.__cause__), flush=True)

if __name__ == "__main__":
    spark = SparkSession.builder.remote("local[2]").config("spark.executor.resource.gpu.amount", "1").getOrCreate()
    x = np.random.default_rng(0).normal(size=(300, 6))
    rows = [(row.tolist(), int(row[:3].argmax())) for row in x]
    table = spark.createDataFrame(rows, "features array<float>, label int")
    network = Network(torch.nn.Linear(6, 3), torch.nn.CrossEntropyLoss(), functools.partial(torch.optim.SGD, lr=0.3))
    model = SparkMultiLayer(spark, network, SharedTrainingMaster(batch_size_per_worker=16, num_workers=2))
    result = model.fit(table, epochs=5, run_directory=sys.argv[1])
    print("ranks", len(result.stats.ranks), "accuracy", model.evaluate(table).accuracy, flush=True)
    print("rows", model.predict(table).where("prediction >= 0").count(), flush=True)
    scores = [row.score for row in model.score_examples(table).collect()]
    model.default_evaluation_workers = 1
    print("scores", len(scores), abs(np.mean(scores) - model.calculate_score(table)) < 1e-6, flush=True)
    master = SharedTrainingMaster(batch_size_per_worker=16, num_workers=2, rdd_training_approach="direct")
    direct = SparkMultiLayer(spark, network, master).fit(table, run_directory=sys.argv[1])
    print("direct", sum(rank.examples for rank in direct.stats.ranks), flush=True)
    counted = SparkMultiLayer(spark, network, master.replaced(repartition="never"))
    refused(ConfigurationError, lambda: counted.fit(table, run_directory=sys.argv[1]))
    refused(ConfigurationError, lambda: model.fit(table))
    refused(RankFailed, lambda: BarrierLauncher(spark).run(fail, 2))
    refused(StartTimeout, lambda: BarrierLauncher(spark, start_timeout_s=4).run(len, 5))
    print("again", BarrierLauncher(spark).run(lambda: 4, 2), flush=True)
    master = SharedTrainingMaster(batch_size_per_worker=16, num_workers=1)
    stage = NetworkEstimator(network=network, training_master=master, runDirectory=sys.argv[1]).fit(table)
    for _ in range(2):
        stage.write().overwrite().save(sys.argv[1] + "/stage")
    loaded = NetworkModel.load(sys.argv[1] + "/stage")
    print("a stage", loaded.uid == stage.uid, loaded.transform(table).where("prediction >= 0").count(), flush=True)
    spark.stop()
"""


def test_fit_evaluate_predict_and_what_is_refused(tmp_path):
    script = tmp_path / "connect.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "run"],
        env={**os.environ, "PYSPARK_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=280,
        cwd=tmp_path,
    )
    for words in (
        "ranks 2 accuracy 0.9",
        "rows 300",
        "scores 300 True",
        "direct 300",
        "refused ConfigurationError repartition cannot act under Spark Connect",
        "refused ConfigurationError run_directory must be given",
        "refused RankFailed rank",
        "KeyError('mine')",
        "refused StartTimeout Spark started none of the 5 ranks within 4 s",
        "again [4, 4]",
        "a stage True 300",
    ):
        assert words in done.stdout, done.stdout + done.stderr[-3000:]
    # A local server has no GPUs to give; a warning says so, and ranks run all the same.
    assert "Spark refuses to give each rank a GPU of its own" in done.stderr, done.stderr[-3000:]


DATA_SCRIPT = """
import functools, os, sys
import numpy as np, torch
from pyspark.sql import SparkSession
from hvdspark import DataSet, Network, SharedTrainingMaster, SparkMultiLayer, TensorColumn
from hvdspark.data import FileSource, stage

def load(path):
    with np.load(path) as found:
        return DataSet(found["x"], found["y"])

if __name__ == "__main__":
    spark = SparkSession.builder.remote("local[2]").getOrCreate()
    x = np.random.default_rng(0).normal(size=(300, 6)).astype(np.float32)
    y = x[:, :3].argmax(1)
    work = sys.argv[1]
    for name in ("saved", "npz"):
        os.makedirs(f"{work}/{name}")
    for number, part in enumerate(np.array_split(np.arange(300), 5)):
        DataSet(x[part], y[part]).save(f"{work}/saved/{number}.safetensors")
        np.savez(f"{work}/npz/{number}.npz", x=x[part], y=y[part])
    rows = [(bytearray(a.tobytes()), int(b), bool(b == 0)) for a, b in zip(x, y)]
    spark.createDataFrame(rows, "picture binary, label int, held_back boolean").write.parquet(f"{work}/table")
    network = Network(torch.nn.Linear(6, 3), torch.nn.CrossEntropyLoss(), functools.partial(torch.optim.SGD, lr=0.3))
    master = SharedTrainingMaster(batch_size_per_worker=16, num_workers=2, export_directory=f"{work}/export")
    picture = TensorColumn("picture", decode=lambda data: np.frombuffer(data, np.float32))
    model = SparkMultiLayer(spark, network, master, features_col=picture)
    for data, options in (
        (f"{work}/table", {"validation": "held_back"}),
        (f"{work}/saved", {}),
    ):
        ranks = model.fit(data, run_directory=f"{work}/run", **options).stats.ranks
        print("examples", sum(rank.examples for rank in ranks), flush=True)
    print("staged", len(next(os.walk(f"{work}/export"))[1]), flush=True)
    paths = [f"{work}/npz/{number}.npz" for number in range(5)]
    print("loaded", stage(FileSource(spark, paths, load, "the files"), f"{work}/loaded").num_rows, flush=True)
    spark.stop()
"""


def test_data_from_tables_and_files(tmp_path):
    script = tmp_path / "data.py"
    script.write_text(DATA_SCRIPT)
    done = subprocess.run(
        [sys.executable, script, tmp_path / "work"],
        env={**os.environ, "PYSPARK_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=280,
        cwd=tmp_path,
    )
    counts = "examples 206\nexamples 300\nstaged 3\nloaded 300\n"
    assert counts in done.stdout, done.stdout + done.stderr[-3000:]
