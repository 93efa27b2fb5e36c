"""Tables, modules and runs as people have them: odd names, other folders, second runs, modules with habits."""

import functools
import logging
import os
import subprocess
import sys
import tempfile

import numpy as np
import pytest
import torch

from contracts.table import CLASSES, WIDTH, fit, make_master, make_network
from hvdspark import Network, SparkMultiLayer
from hvdspark.errors import ConfigurationError, DataError, ModelError, RankFailed
from hvdspark.events import EventReader
from hvdspark_launch import InlineLauncher

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(300)]

SGD = functools.partial(torch.optim.SGD, lr=0.1)


# ---- names of columns ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["my.id", "my`id", "my id", "größe", "label"])
def test_predict_keeps_columns_of_any_name(spark, table, name):
    data = table.withColumnRenamed("id", name)
    predicted = SparkMultiLayer(spark, make_network()).predict(data)
    assert predicted.columns == [name, "features", "label", "prediction", "probability"]
    assert [row[0] for row in predicted.collect()] == [row[0] for row in data.collect()]


def test_features_of_any_name(spark, table):
    data = table.withColumnRenamed("features", "x.y`z").withColumnRenamed("label", "a b")
    model = SparkMultiLayer(spark, make_network(), make_master(), features_col="x.y`z", label_col="a b")
    assert model.fit(data).score > 0
    assert model.evaluate(data).num_examples == 400
    assert model.predict(data).columns[1] == "x.y`z"


def test_a_name_that_differs_by_case_alone_is_taken_too(spark, table):
    with pytest.raises(DataError, match="'Probability' already"):
        SparkMultiLayer(spark, make_network()).predict(table.withColumnRenamed("id", "Probability"))


# ---- labels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "loss", [torch.nn.functional.mse_loss, lambda output, target: (output - target).square().mean()]
)
def test_whole_numbers_are_values_under_a_users_loss_of_one_output(spark, loss):
    """Not broadcast against each other."""
    x = np.random.default_rng(0).integers(-3, 4, (200, WIDTH)).astype(float)
    rows = [(row.tolist(), int(row[0] - 2 * row[1])) for row in x]
    data = spark.createDataFrame(rows, "features array<double>, label int")
    network = Network(torch.nn.Linear(WIDTH, 1), loss, functools.partial(torch.optim.SGD, lr=0.02))
    assert fit(spark, data, network, make_master(exchange="dense"), epochs=5).score < 0.2


def test_validation_labels_of_another_type_are_refused(spark, table):
    from pyspark.sql import functions as f

    other = table.withColumn("label", f.lit(0.7))
    with pytest.raises(DataError, match="integer in the training data and float in the validation data"):
        SparkMultiLayer(spark, make_network(), make_master()).fit(table, validation=other)
    with pytest.raises(DataError, match="'label' is not there"):
        SparkMultiLayer(spark, make_network(), make_master()).fit(table, validation=table.drop("label"))


def test_binary_labels_in_arrays_of_one_are_not_all_class_0(spark, table):
    from pyspark.sql import functions as f

    network = make_network(torch.nn.BCEWithLogitsLoss(), outputs=1)
    plain = table.withColumn("label", (f.col("label") > 0).cast("int"))
    listed = plain.withColumn("label", f.array(f.col("label").cast("float")))
    model = SparkMultiLayer(spark, network)
    assert model.evaluate(listed) == model.evaluate(plain)
    with pytest.raises(DataError, match="yes or no to 3 questions"):
        SparkMultiLayer(spark, make_network(torch.nn.BCEWithLogitsLoss())).evaluate(plain)


# ---- folders and second runs ---------------------------------------------------------------------------------------


def test_a_relative_run_directory_is_the_drivers(spark, table, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # Java, and so the Python workers, stay where the session started
    result = SparkMultiLayer(spark, make_network(), make_master()).fit(table, run_directory="runs/x")
    assert result.run_directory == str(tmp_path / "runs/x")
    assert {path.name for path in (tmp_path / "runs/x").iterdir()} == {"events", "run.json", "weights.safetensors"}
    master = make_master(export_directory="staged")
    assert SparkMultiLayer(spark, make_network(), master).fit(table).score > 0
    (staged,) = (path for path in (tmp_path / "staged").iterdir() if path.is_dir())
    assert "manifest.json" in {path.name for path in staged.iterdir()}


def test_a_second_run_in_the_same_directory_does_not_show_the_first(spark, table, tmp_path, caplog):
    model = SparkMultiLayer(spark, make_network(), make_master())
    first = model.fit(table, epochs=2, run_directory=str(tmp_path))
    with caplog.at_level(logging.INFO, logger="hvdspark"):
        second = model.fit(table, epochs=1, run_directory=str(tmp_path))
    assert [line for line in caplog.messages if line.startswith("epoch")] == [f"epoch 1: loss {second.score:.4f}"]
    assert second.score < first.score, "the second fit did not go on from the first"


def test_a_failed_fit_leaves_no_temporary_folder(spark, table, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(DataError):
        fit(spark, table.limit(0))
    assert list(tmp_path.glob("hvdspark-*")) == []


BESIDE = """
import functools, sys
import mymodels
from pyspark.sql import SparkSession
from hvdspark import Network, SharedTrainingMaster, SparkMultiLayer
import torch

if __name__ == "__main__":
    spark = (SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
             .config("spark.ui.showConsoleProgress", "false").getOrCreate())
    table = spark.createDataFrame([([1.0, 0.0], 0), ([0.0, 1.0], 1)] * 20, "features array<float>, label int")
    network = Network(mymodels.Net(), mymodels.loss, functools.partial(torch.optim.SGD, lr=0.5))
    for launcher in ("barrier", "local"):
        master = SharedTrainingMaster(batch_size_per_worker=8, num_workers=2, launcher=launcher)
        model = SparkMultiLayer(spark, network, master)
        model.fit(table, epochs=2)
    print("rows", len(model.predict(table).collect()))
    network.loss = torch.nn.CrossEntropyLoss()
    print("accuracy", model.evaluate(table).accuracy)
    spark.stop()
"""
MODELS = """
import torch

def scaled(x):
    return 2 * x

class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(2, 2)

    def forward(self, x):
        return super().forward(scaled(x))

def loss(output, target):
    return torch.nn.functional.cross_entropy(output, target.long())
"""


@pytest.mark.slow
def test_classes_in_a_file_beside_the_script_travel(tmp_path):
    """Started from another folder, so that no worker finds the file by chance."""
    (tmp_path / "script").mkdir()
    (tmp_path / "script/train.py").write_text(BESIDE)
    (tmp_path / "script/mymodels.py").write_text(MODELS)
    done = subprocess.run(
        [sys.executable, tmp_path / "script/train.py"],
        cwd=tmp_path,
        env={**os.environ},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert "rows 40\n" in done.stdout, done.stderr[-3000:]
    assert "accuracy 1.0\n" in done.stdout


# ---- modules and schedulers ----------------------------------------------------------------------------------------


class Caching(torch.nn.Linear):
    """Keeps a tensor that grows with the largest batch, as position encodings do."""

    def __init__(self):
        super().__init__(WIDTH, CLASSES)
        self.ones = torch.ones(0, 1)

    def forward(self, x):
        if len(x) > len(self.ones):
            self.ones = torch.ones(len(x), 1)
        return super().forward(x * self.ones[: len(x)])


def test_a_module_that_keeps_a_tensor_of_the_validation_pass(spark, table):
    network = Network(Caching(), torch.nn.CrossEntropyLoss(), SGD)
    model = SparkMultiLayer(spark, network, make_master(num_workers=1))
    assert model.fit(table.limit(10), epochs=3, validation=table).score > 0


def test_the_mode_of_the_module_is_left_as_it_was(spark, table):
    network = make_network()
    model = SparkMultiLayer(spark, network, make_master(num_workers=1, launcher=InlineLauncher()))
    for mode in (True, False):
        network.module.train(mode)
        model.fit(table, validation=table)
        assert network.module.training is mode
    network.loss = torch.nn.MSELoss()
    with pytest.raises(RankFailed, match="do not fit an output"):
        model.fit(table)
    assert network.module.training is False


def test_a_scheduler_that_looks_at_the_score(spark, table):
    def plateau(optimizer):
        return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=1e-9, threshold=10.0)

    network = Network(torch.nn.Linear(WIDTH, CLASSES), torch.nn.CrossEntropyLoss(), SGD, lr_scheduler=plateau)
    result = fit(spark, table, network, make_master(exchange="dense"), epochs=4)
    scores = [epoch["score"] for epoch in result.history]
    assert scores[1] < scores[0] - 1e-3
    assert scores[2] == pytest.approx(scores[3], abs=1e-5), "the learning rate did not fall"
    options = {"lr_scheduler": plateau, "scheduler_interval": "step"}
    network = Network(torch.nn.Linear(WIDTH, CLASSES), torch.nn.CrossEntropyLoss(), SGD, **options)
    with pytest.raises(RankFailed, match="cannot act with ReduceLROnPlateau") as caught:
        fit(spark, table, network)
    assert isinstance(caught.value.__cause__, ConfigurationError)


class TwoOutputs(torch.nn.Linear):
    def forward(self, x):
        return super().forward(x), x


def test_a_module_of_two_outputs_is_told(spark, table):
    with pytest.raises(RankFailed, match="returned a tuple") as caught:
        fit(spark, table, Network(TwoOutputs(WIDTH, CLASSES), torch.nn.CrossEntropyLoss(), SGD))
    assert isinstance(caught.value.__cause__, ModelError)


# ---- what the codec does, seen from outside ------------------------------------------------------------------------


@pytest.mark.parametrize("magnitude", ["mean", "multiples"])
def test_the_encoding_debug_mode_leaves_events_of_every_rank_step_and_parameter(spark, table, tmp_path, magnitude):
    master = make_master(encoding_debug_mode=True, threshold_scope="parameter", magnitude=magnitude)
    SparkMultiLayer(spark, make_network(), master).fit(table, run_directory=str(tmp_path))
    events = [event for rank in (0, 1) for event in EventReader(str(tmp_path), rank).read()]
    encodings = [event for event in events if event["kind"] == "encoding"]
    steps = -(-400 // (2 * 16))
    seen = sorted((event["rank"], event["step"], event["group"]) for event in encodings)
    assert seen == [(rank, step, group) for rank in (0, 1) for step in range(steps) for group in range(4)]
    assert any(event["magnitude"] * event["multiple"] > event["threshold"] for event in encodings)
    assert any(event["multiple"] > 1 for event in encodings) == (magnitude == "multiples")
    assert {"density", "p50", "p99.99", "message_bytes", "clipped_mass"} <= set(encodings[0])
