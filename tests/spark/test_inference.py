"""Scores of single examples, and outputs for whatever is given: against the plain module in one process."""

import functools
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from contracts.table import CLASSES, WIDTH, make_network, make_rows
from hvdspark import DataSet, Network, SparkMultiLayer
from hvdspark.errors import ConfigurationError, DataError, UnsupportedError

pytestmark = [pytest.mark.spark, pytest.mark.timeout(300)]

STILL = functools.partial(torch.optim.SGD, lr=0.0)


def arrays():
    _, features, labels = zip(*make_rows(), strict=True)
    return np.array(features, np.float32), np.array(labels)


def losses(network, x, y):
    with torch.no_grad():
        output = network.module(torch.from_numpy(x))
        return torch.nn.functional.cross_entropy(output, torch.from_numpy(y), reduction="none").double().numpy()


def cross_entropy_of_a_batch(output, target):
    """A loss that knows no reduction."""
    return torch.nn.functional.cross_entropy(output, target.reshape(-1).long())


# ---- scores --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [torch.nn.CrossEntropyLoss(), cross_entropy_of_a_batch], ids=["at once", "by row"])
def test_a_column_of_scores(spark, table, loss):
    network, (x, y) = make_network(loss, l2=0.5), arrays()
    model = SparkMultiLayer(spark, network)
    data = table.withColumnRenamed("id", "my.id")
    scored = model.score_examples(data)
    assert scored.columns == ["my.id", "features", "label", "score"]
    rows = scored.collect()
    expected = losses(network, x, y)
    np.testing.assert_allclose([row.score for row in rows], expected[[row[0] for row in rows]], rtol=1e-5, atol=1e-6)
    assert np.mean([row.score for row in rows]) == pytest.approx(model.calculate_score(table), rel=1e-6)
    more = model.score_examples(data, include_regularization=True).collect()
    penalty = network.penalty().item()
    assert penalty > 0.01
    np.testing.assert_allclose([row.score for row in more], expected[[r[0] for r in more]] + penalty, rtol=1e-5)


def test_scores_without_a_shuffle(spark, table, capsys):
    SparkMultiLayer(spark, make_network()).score_examples(table.select("features", "label")).explain()
    plan = capsys.readouterr().out
    assert "ArrowEvalPython" in plan
    assert "MapInArrow" not in plan
    assert "Exchange" not in plan.partition("InMemoryTableScan")[0]


def test_added_columns_where_spark_has_no_arrow_udf(spark, table, monkeypatch):
    model = SparkMultiLayer(spark, make_network())
    rows = [model.score_examples(table).collect(), model.predict(table).collect()]
    monkeypatch.delattr("pyspark.sql.functions.arrow_udf", raising=False)
    for frame, before in zip((model.score_examples(table), model.predict(table)), rows, strict=True):
        assert "MapInArrow" in frame._jdf.queryExecution().toString()
        assert sorted(frame.collect()) == sorted(before)


def test_a_filter_on_predictions_costs_no_second_pass(spark, table):
    predicted = (
        SparkMultiLayer(spark, make_network()).predict(table).where("prediction > 0 and probability is not null")
    )
    assert predicted._jdf.queryExecution().executedPlan().toString().count("ArrowEvalPython") == 1
    assert 0 < predicted.count() < 400


def test_weights_multiply_scores(spark, table):
    network, (x, y) = make_network(), arrays()
    rows = SparkMultiLayer(spark, network, weight_col="id").score_examples(table).collect()
    expected = losses(network, x, y) * np.arange(400)
    np.testing.assert_allclose([row.score for row in rows], expected[[row.id for row in rows]], rtol=1e-5, atol=1e-5)


def test_scores_of_an_rdd_come_in_order(spark):
    from pyspark.mllib.regression import LabeledPoint

    network, (x, y) = make_network(l1=0.1), arrays()
    model, expected, context = SparkMultiLayer(spark, network), losses(network, x, y), spark.sparkContext
    found = model.score_examples(context.parallelize(DataSet(x, y).split(7), 3), batch_size=16).collect()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    points = context.parallelize([LabeledPoint(b, a) for a, b in zip(x, y, strict=True)], 3)
    np.testing.assert_allclose(model.score_examples(points).collect(), expected, rtol=1e-5, atol=1e-6)
    pairs = context.parallelize([(f"k{i}", DataSet(x[i : i + 1], y[i : i + 1])) for i in range(30)], 2)
    keyed = model.score_examples(pairs, include_regularization=True, batch_size=4).collect()
    assert [key for key, _ in keyed] == [f"k{i}" for i in range(30)]
    np.testing.assert_allclose([score for _, score in keyed], expected[:30] + network.penalty().item(), rtol=1e-5)


def test_scores_that_are_refused(spark, table, tmp_path):
    x, y = arrays()
    model = SparkMultiLayer(spark, make_network())
    with pytest.raises(DataError, match="a column 'Score' already: drop or rename it before score_examples"):
        model.score_examples(table.withColumnRenamed("id", "Score"))
    with pytest.raises(ConfigurationError, match="batch_size: at least 1"):
        model.score_examples(table, batch_size=0)
    with pytest.raises(ConfigurationError, match="a weight column needs the loss of each example"):
        SparkMultiLayer(spark, make_network(cross_entropy_of_a_batch), weight_col="id").score_examples(table)
    several = spark.sparkContext.parallelize([("k", DataSet(x[:2], y[:2]))], 1)
    with pytest.raises(Exception, match="key 'k' has 2 examples, and a score is of one"):
        model.score_examples(several).collect()
    with pytest.raises(Exception, match="objects of another class in 1 row"):
        model.score_examples(spark.sparkContext.parallelize([{"a": 1}], 1)).collect()
    DataSet(x, y).save(tmp_path / "all.safetensors")
    with pytest.raises(UnsupportedError, match="give the RDD of their paths"):
        model.score_examples(str(tmp_path))
    paths = spark.sparkContext.parallelize([str(tmp_path / "all.safetensors")], 1)
    assert model.score_examples(paths).count() == 400


# ---- outputs -------------------------------------------------------------------------------------------------------


class Noisy(torch.nn.Module):
    """Differs between training and evaluation."""

    def __init__(self):
        super().__init__()
        self.layer, self.drop = torch.nn.Linear(WIDTH, CLASSES), torch.nn.Dropout(0.5)

    def forward(self, x):
        return self.layer(self.drop(x))


def test_what_the_driver_holds_comes_back_as_its_kind(spark):
    from pyspark.ml import linalg as new
    from pyspark.mllib import linalg as old

    network, x = Network(Noisy(), torch.nn.CrossEntropyLoss(), STILL), arrays()[0]
    network.module.drop.eval()
    model = SparkMultiLayer(spark, network)
    with torch.no_grad():
        expected = torch.softmax(network.module.layer(torch.from_numpy(x)), 1).numpy()
    found = model.predict(x, batch_size=7)
    assert isinstance(found, np.ndarray)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(model.predict(x[0].astype(float)), expected[0], atol=1e-6)
    tensor = model.predict(torch.from_numpy(x))
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_allclose(tensor.numpy(), expected, atol=1e-6)
    for linalg in (new, old):
        vector = model.predict(linalg.Vectors.dense(x[0].tolist()))
        assert type(vector) is linalg.DenseVector
        np.testing.assert_allclose(vector.toArray(), expected[0], atol=1e-6)
        sparse = model.predict(linalg.Vectors.sparse(WIDTH, {1: 2.0}))
        assert type(sparse) is linalg.DenseVector
        matrix = model.predict(linalg.DenseMatrix(5, WIDTH, x[:5].astype(float).reshape(-1, order="F")))
        assert type(matrix) is linalg.DenseMatrix
        np.testing.assert_allclose(matrix.toArray(), expected[:5], atol=1e-6)
    assert network.module.training
    assert not network.module.drop.training


def test_predictions_that_are_refused(spark):
    model = SparkMultiLayer(spark, make_network())
    with pytest.raises(UnsupportedError, match=r"predict takes a Spark DataFrame, .* and this is a list"):
        model.predict([1.0])
    with pytest.raises(DataError, match=r"NaN or infinity in the ndarray of shape \[1, 6\]"):
        model.predict(np.full((1, WIDTH), np.nan))
    with pytest.raises(DataError, match=r"no number in the ndarray of shape \[0, 6\]"):
        model.predict(np.ones((0, WIDTH)))
    with pytest.raises(ConfigurationError, match="batch_size: at least 1"):
        model.predict(np.ones((1, WIDTH)), batch_size=0)
    with pytest.raises(UnsupportedError, match=r"an RDD of .key, features. is needed, this is a list"):
        model.feed_forward_with_key([])


class Loaded(torch.nn.Linear):
    """Writes down which process makes it."""

    def __init__(self, path):
        super().__init__(WIDTH, CLASSES)
        self.path = str(path)

    def __setstate__(self, state):
        super().__setstate__(state)
        with Path(self.path).open("a") as file:
            file.write(f"{os.getpid()}\n")


def test_a_python_worker_loads_the_network_once(spark, table, tmp_path):
    network = Network(Loaded(tmp_path / "log"), torch.nn.CrossEntropyLoss(), STILL)
    predicted = SparkMultiLayer(spark, network).predict(table.repartition(8))
    for _ in range(2):
        assert len(predicted.collect()) == 400
    processes = [line for line in (tmp_path / "log").read_text().splitlines() if line != str(os.getpid())]
    assert len(processes) == len(set(processes)) <= 4


class Sums(torch.nn.Module):
    """Sums the steps that count; refuses large batches."""

    def __init__(self, most=64):
        super().__init__()
        self.most = most

    def forward(self, x, features_mask=None):
        if len(x) > self.most:
            raise RuntimeError(f"{len(x)} rows at a time")
        return (x if features_mask is None else x * features_mask[..., None]).sum(1)


def test_outputs_keep_their_keys(spark):
    rng = np.random.default_rng(0)
    steps = [rng.normal(size=(int(n), 2)).astype(np.float32) for n in rng.integers(1, 4, 40)]
    masks = [rng.random(len(each)) < 0.5 for each in steps]
    network = Network(Sums(most=5), torch.nn.MSELoss(), STILL)
    model, context = SparkMultiLayer(spark, network), spark.sparkContext
    plain = context.parallelize([(f"k{i}", each) for i, each in enumerate(steps)], 3)
    found = model.feed_forward_with_key(plain, batch_size=5).collect()
    assert [key for key, _ in found] == [f"k{i}" for i in range(40)]
    for (_, output), each in zip(found, steps, strict=True):
        np.testing.assert_allclose(output, each.sum(0), atol=1e-5)
    masked = context.parallelize([(i, pair) for i, pair in enumerate(zip(steps, masks, strict=True))], 2)
    for (_, output), each, mask in zip(
        model.feed_forward_with_key(masked, batch_size=5).collect(), steps, masks, strict=True
    ):
        np.testing.assert_allclose(output, (each * mask[:, None]).sum(0), atol=1e-5)
    with pytest.raises(Exception, match="6 rows at a time"):  # equal shapes meet, though others stand between them
        model.feed_forward_with_key(plain.coalesce(1), batch_size=6).collect()
    with pytest.raises(Exception, match=r"pairs of .key, features. or .key, .features, mask.. are needed"):
        model.feed_forward_with_key(context.parallelize([3], 1)).collect()


def test_classes_of_steps_are_refused_by_name(spark, table):
    steps = torch.nn.Unflatten(1, (CLASSES, WIDTH // CLASSES))
    model = SparkMultiLayer(spark, Network(steps, torch.nn.CrossEntropyLoss(), STILL))
    with pytest.raises(Exception, match=r"one class a row, .*of shape \[\d+, 3, 2\].*feed_forward_with_key"):
        model.predict(table).collect()
    x, _ = arrays()
    assert model.predict(x[:4]).shape == (4, CLASSES, WIDTH // CLASSES)
