"""Evaluation on Spark: every measure from every source equals one process with plain torch and scikit-learn."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
import torchmetrics
from sklearn import metrics
from torchmetrics.classification import BinaryAccuracy, MulticlassCohenKappa

from contracts.table import CLASSES, WIDTH, make_network, make_rows
from hvdspark import (
    BinaryMeasure,
    ClassMeasure,
    DataSet,
    JointLoss,
    MultiDataSet,
    Network,
    RegressionMeasure,
    SparkMultiLayer,
    TensorColumn,
)
from hvdspark.errors import ConfigurationError, DataError, ModelError, UnsupportedError

pytestmark = [pytest.mark.spark, pytest.mark.timeout(300)]

STILL = functools.partial(torch.optim.SGD, lr=0.0)


def arrays():
    _, features, labels = zip(*make_rows(), strict=True)
    return np.array(features, np.float32), np.array(labels)


def probabilities(network, x):
    with torch.no_grad():
        return network.readable(network.module(torch.from_numpy(x))).numpy()


def load_npz(path):
    with np.load(path) as found:
        return DataSet(found["x"], found["y"])


@pytest.fixture(scope="module")
def sources(spark, table, tmp_path_factory):
    """The same rows as everything that fit takes."""
    from pyspark.mllib.regression import LabeledPoint

    x, y = arrays()
    folder = tmp_path_factory.mktemp("sources")
    for name in ("saved", "npz"):
        (folder / name).mkdir()
    for number, part in enumerate(np.array_split(np.arange(400), 3)):
        DataSet(x[part], y[part]).save(folder / "saved" / f"{number}.safetensors")
        np.savez(folder / "npz" / f"{number}.npz", x=x[part], y=y[part])
    table.write.parquet(str(folder / "table"))
    context = spark.sparkContext
    return {
        "table": (table, {}),
        "one partition": (table.coalesce(1), {}),
        "empty partitions": (table.where("id < 400").repartition(7, "label"), {}),
        "parquet": (str(folder / "table"), {}),
        "data sets": (context.parallelize(DataSet(x, y).split(7), 3), {}),
        "multi data sets": (context.parallelize([MultiDataSet.of(DataSet(x, y))], 2), {}),
        "points": (context.parallelize([LabeledPoint(b, a) for a, b in zip(x, y, strict=True)], 3), {}),
        "saved": (str(folder / "saved"), {}),
        "loaded": (folder / "npz", {"loader": load_npz}),
    }


@pytest.mark.parametrize(
    "name",
    [
        "table",
        "one partition",
        "empty partitions",
        "parquet",
        "data sets",
        "multi data sets",
        "points",
        "saved",
        "loaded",
    ],
)
def test_classes_and_score_from_every_source(spark, sources, name):
    data, options = sources[name]
    network, (x, y) = make_network(), arrays()
    model = SparkMultiLayer(spark, network)
    expected = probabilities(network, x)
    found = model.evaluate(data, **options)
    np.testing.assert_array_equal(found.confusion_matrix, metrics.confusion_matrix(y, expected.argmax(1)))
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(network.module(torch.from_numpy(x)), torch.from_numpy(y)).item()
    assert model.calculate_score(data, batch_size=48, **options) == pytest.approx(loss, rel=1e-6)


def test_options_of_evaluate(spark, table):
    network, (x, y) = make_network(), arrays()
    model = SparkMultiLayer(spark, network)
    found = model.evaluate(table, labels=("a", "b", "c"), top_n=2)
    expected = metrics.top_k_accuracy_score(y, probabilities(network, x), k=2)
    assert found.top_n_accuracy == pytest.approx(expected, abs=1e-9)
    assert found.class_names == ("a", "b", "c")
    with pytest.raises(DataError, match="labels names 2 classes, but the network tells 3 apart"):
        model.evaluate(table, labels=("a", "b"))


def test_several_measures_in_one_pass(spark, table):
    network, (x, y) = make_network(), arrays()
    expected = probabilities(network, x)
    # Doubles, as VectorAssembler's friends leave them, are classes for metrics too.
    data = table.withColumn("label", table.label.cast("double"))
    collection = torchmetrics.MetricCollection([MulticlassCohenKappa(CLASSES)])
    classes, kappa = SparkMultiLayer(spark, network).do_evaluation(data, ClassMeasure(), collection)
    assert classes.accuracy == pytest.approx(metrics.accuracy_score(y, expected.argmax(1)))
    found = kappa["MulticlassCohenKappa"]
    assert found == pytest.approx(metrics.cohen_kappa_score(y, expected.argmax(1)), abs=1e-6)


def test_roc_of_each_class(spark, table):
    network, (x, y) = make_network(), arrays()
    expected = probabilities(network, x)
    found = SparkMultiLayer(spark, network).evaluate_roc_multi_class(table, threshold_steps=0, labels=("a", "b", "c"))
    for label, roc in enumerate(found.rocs):
        assert roc.auc == pytest.approx(metrics.roc_auc_score(y == label, expected[:, label]), abs=1e-6)
    assert [roc.name for roc in found.rocs] == ["a", "b", "c"]


def test_roc_of_one_output(spark, table):
    network, (x, y) = make_network(torch.nn.BCEWithLogitsLoss(), outputs=1), arrays()
    model = SparkMultiLayer(spark, network)
    data = table.withColumn("label", (table.label == 1).cast("int"))
    expected = probabilities(network, x)[:, 0]
    exact = model.evaluate_roc(data, threshold_steps=0)
    assert exact.auc == pytest.approx(metrics.roc_auc_score(y == 1, expected), abs=1e-6)
    assert len(model.evaluate_roc(data).thresholds) == 33
    accuracy, classes = model.do_evaluation(data, BinaryAccuracy(), ClassMeasure())
    assert accuracy["BinaryAccuracy"] == pytest.approx(classes.accuracy)
    with pytest.raises(DataError, match="two classes apart, not 3"):
        SparkMultiLayer(spark, make_network()).evaluate_roc(table)


def test_values(spark, table):
    from pyspark.sql import functions as f

    data = table.withColumn("label", f.col("features")[0] * 2 - f.col("features")[1])
    network, (x, _) = make_network(torch.nn.MSELoss(), outputs=1), arrays()
    model = SparkMultiLayer(spark, network)
    found = model.evaluate_regression(data, columns=("price",))
    truth, output = x[:, 0] * 2 - x[:, 1], probabilities(network, x)[:, 0]
    assert found.mse[0] == pytest.approx(metrics.mean_squared_error(truth, output), rel=1e-5)
    assert found.r2[0] == pytest.approx(metrics.r2_score(truth, output), abs=1e-5)
    assert found.column_names == ("price",)
    same, mae = model.do_evaluation(data, RegressionMeasure(), torchmetrics.MeanAbsoluteError())
    assert same.mae[0] == pytest.approx(mae["MeanAbsoluteError"], rel=1e-6)
    assert model.calculate_score(data) == pytest.approx(found.mse[0], rel=1e-6)


class Steps(torch.nn.Module):
    """Says a class at every step; refuses larger batches than it was told of."""

    def __init__(self, most=64):
        super().__init__()
        self.each, self.most = torch.nn.Linear(2, 3), most

    def forward(self, x, features_mask):
        if len(x) > self.most:
            raise ModelError(f"{len(x)} rows at a time")
        return self.each(x * features_mask[:, :, None]).transpose(1, 2)


def test_masks_say_what_counts(spark):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, 4, 2)).astype(np.float32)
    y, mask = rng.integers(0, 3, (50, 4)), rng.random((50, 4)) < 0.7
    rows = [(a.tolist(), b.tolist(), m.tolist()) for a, b, m in zip(x, y, mask, strict=True)]
    frame = spark.createDataFrame(rows, "x array<array<float>>, y array<int>, m array<boolean>")
    network = Network(Steps(), torch.nn.CrossEntropyLoss(), STILL)
    columns = {"features_col": "x", "features_mask_col": "m", "labels_mask_col": "m"}
    label = TensorColumn("y", dtype="int64")
    with torch.no_grad():
        output = network.module(torch.from_numpy(x), torch.from_numpy(mask))
        losses = torch.nn.functional.cross_entropy(output, torch.from_numpy(y), reduction="none").numpy()
    expected = metrics.confusion_matrix(y[mask], output.argmax(1).numpy()[mask])
    each = (losses * mask).sum(1) / np.maximum(mask.sum(1), 1)
    rdd = spark.sparkContext.parallelize(DataSet(x, y, mask, mask).split(9), 2)
    for data, options in ((frame, {"label_col": label, **columns}), (rdd, {})):
        model = SparkMultiLayer(spark, network, **options)
        np.testing.assert_array_equal(model.evaluate(data).confusion_matrix, expected)
        assert model.calculate_score(data) == pytest.approx(each.mean(), rel=1e-6)
        assert model.calculate_score(data, average=False) == pytest.approx(each.sum(), rel=1e-6)


def test_batches_are_filled_and_no_larger_than_asked_for(spark):
    x, y = np.ones((50, 4, 2), np.float32), np.zeros((50, 4), int)
    mask = np.ones((50, 4), bool)
    data = spark.sparkContext.parallelize(DataSet(x, y, mask).split(3), 1)
    model = SparkMultiLayer(spark, Network(Steps(most=9), torch.nn.CrossEntropyLoss(), STILL))
    assert model.evaluate(data, batch_size=9).num_examples == 200
    for call in (model.evaluate, model.calculate_score):
        with pytest.raises(ModelError, match="10 rows at a time"):  # pieces of 3 are joined
            call(data, batch_size=10)


def test_weights_act_in_scores_and_not_in_counts(spark, table):
    data = table.withColumn("w", (table.id % 5) / 2)
    network, (x, y) = make_network(), arrays()
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(
            network.module(torch.from_numpy(x)), torch.from_numpy(y), reduction="none"
        ).numpy()
    model = SparkMultiLayer(spark, network, weight_col="w")
    assert model.calculate_score(data) == pytest.approx((losses * (np.arange(400) % 5 / 2)).mean(), rel=1e-6)
    assert model.evaluate(table).num_examples == 400  # no column of weights is needed


# ---- what is refused -----------------------------------------------------------------------------------------------


def never(table):
    """A table that must not be looked at."""
    from pyspark.sql import functions as f

    wrong = f.when(f.col("id") >= 0, f.raise_error(f.lit("rows were read first"))).otherwise(0)
    return table.withColumn("label", wrong.cast("int"))


def test_what_is_refused_before_any_row_is_read(spark, table):
    data = never(table)
    model = SparkMultiLayer(spark, make_network())
    with pytest.raises(UnsupportedError, match=r"PearsonCorrCoef .* do not merge"):
        model.do_evaluation(data, ClassMeasure(), torchmetrics.PearsonCorrCoef())
    with pytest.raises(UnsupportedError, match="a torchmetrics Metric or MetricCollection is needed, not str"):
        model.do_evaluation(data, "accuracy")
    with pytest.raises(ConfigurationError, match="no measure is given"):
        model.do_evaluation(data)
    with pytest.raises(ConfigurationError, match=r"evaluate_regression compares values.*CrossEntropyLoss"):
        model.evaluate_regression(data)
    values = SparkMultiLayer(spark, make_network(torch.nn.MSELoss()))
    for method in ("evaluate", "evaluate_roc", "evaluate_roc_multi_class"):
        with pytest.raises(ConfigurationError, match=f"{method} counts classes, but the loss is MSELoss"):
            getattr(values, method)(data)
    for method in (model.evaluate, model.calculate_score, model.evaluate_roc):
        with pytest.raises(ConfigurationError, match="batch_size: at least 1 is needed, not 0"):
            method(data, batch_size=0)
    with pytest.raises(ConfigurationError, match="a weight column needs the loss of each example"):
        SparkMultiLayer(spark, make_network(lambda output, target: output.mean()), weight_col="id").calculate_score(
            data
        )
    with pytest.raises(UnsupportedError, match="this is a int"):
        model.evaluate(3)


def test_several_questions_are_no_classes(spark, table):
    from pyspark.sql import functions as f

    model = SparkMultiLayer(spark, make_network(torch.nn.BCEWithLogitsLoss()))
    data = table.withColumn("label", f.array(*[(f.col("label") == i).cast("float") for i in range(CLASSES)]))
    for method in ("evaluate", "evaluate_roc", "evaluate_roc_multi_class"):
        with pytest.raises(DataError, match=f"yes or no to 3 questions a row, and {method} counts one"):
            getattr(model, method)(data)
    (answers,) = model.do_evaluation(data, BinaryMeasure())
    assert len(answers.accuracy) == CLASSES


class Heads(torch.nn.Module):
    """Classes and a value."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.scores, self.value = torch.nn.Linear(WIDTH, CLASSES), torch.nn.Linear(WIDTH, 1)

    def forward(self, x):
        return self.scores(x), self.value(x).bfloat16()


def test_each_output_is_evaluated_by_its_own_loss(spark):
    (x, y), loss = arrays(), JointLoss([torch.nn.CrossEntropyLoss(), torch.nn.MSELoss()], [1.0, 0.5])
    network = Network(Heads(), loss, STILL)
    model = SparkMultiLayer(spark, network)
    values = x.sum(axis=1)
    whole = MultiDataSet([x], [y.astype(np.float64), values])  # whole-number doubles are classes here, too
    data = spark.sparkContext.parallelize(whole.batch_by(40), 3)
    classes, regression = model.do_evaluation(data, ClassMeasure(output=0), RegressionMeasure(output=1))
    with torch.no_grad():
        scores, guesses = network.module(torch.from_numpy(x))
    assert classes.accuracy == pytest.approx(metrics.accuracy_score(y, scores.argmax(1)))
    guesses = guesses.float().reshape(-1)
    assert regression.mse[0] == pytest.approx(metrics.mean_squared_error(values, guesses), rel=1e-6)
    expected = torch.nn.functional.cross_entropy(scores, torch.from_numpy(y)).item() + 0.5 * regression.mse[0]
    assert model.calculate_score(data) == pytest.approx(expected, rel=1e-2)  # of values in bfloat16
    with pytest.raises(ConfigurationError, match=r"one output, but the loss is JointLoss.*SparkComputationGraph"):
        model.evaluate_regression(data)
    with pytest.raises(ModelError, match=r"says 2 things of each row, and one can be predicted: give Network\(output"):
        model.predict(x[:2])
    network.output = lambda outputs: outputs[1]
    assert model.predict(x[:2]).reshape(-1) == pytest.approx(guesses[:2].numpy())


def test_bad_rows_are_told_as_in_fit(spark, table):
    from pyspark.sql import functions as f

    model = SparkMultiLayer(spark, make_network())
    holes = table.withColumn("label", f.when(f.col("id") % 100 != 7, f.col("label")))
    wide = spark.sparkContext.parallelize([DataSet(np.ones((2, w)), np.zeros(2, int)) for w in (WIDTH, WIDTH + 1)], 2)
    for call in (model.evaluate, model.calculate_score):
        with pytest.raises(DataError, match=r"column 'label' has nulls in 4 rows \(.* in partition .*drop those rows"):
            call(holes)
        with pytest.raises(DataError, match="the RDD is empty: there is no row to evaluate"):
            call(spark.sparkContext.parallelize([], 2))
    with pytest.raises(DataError, match=rf"{WIDTH} in partition 0, {WIDTH + 1} in partition 1"):
        model.evaluate(wide)
    narrow = spark.sparkContext.parallelize([DataSet(np.ones((2, 2)), np.zeros(2, int))], 1)
    with pytest.raises(ModelError, match=r"(?s)RuntimeError in partition 0: .*Traceback .*in forward"):
        model.evaluate(narrow)
    with pytest.raises(DataError, match="4 rows without labels"):
        model.evaluate(spark.sparkContext.parallelize([DataSet(np.ones((4, WIDTH)))], 1))
    with pytest.raises(ModelError, match="labels run from 0 to 9"):
        model.calculate_score(spark.sparkContext.parallelize([DataSet(np.ones((2, WIDTH)), np.array([0, 9]))], 1))


# ---- how many copies a host holds ----------------------------------------------------------------------------------


class Slow(torch.nn.Linear):
    """Writes down when it begins and ends."""

    def __init__(self, path):
        super().__init__(WIDTH, CLASSES)
        self.path = str(path)

    def forward(self, x):
        import time

        lines = [f"{time.time()} 1\n"]
        time.sleep(0.15)
        lines.append(f"{time.time()} -1\n")
        with Path(self.path).open("a") as file:
            file.writelines(lines)
        return super().forward(x)


@pytest.mark.parametrize(("workers", "most"), [(1, 1), (2, 2)])
def test_copies_of_the_model_at_once(spark, table, tmp_path, workers, most):
    network = Network(Slow(tmp_path / "log"), torch.nn.CrossEntropyLoss(), STILL)
    model = SparkMultiLayer(spark, network, default_evaluation_workers=4)
    model.default_evaluation_workers = workers
    assert model.evaluate(table.repartition(4), batch_size=50).num_examples == 400
    events = sorted(tuple(map(float, line.split())) for line in (tmp_path / "log").read_text().splitlines())
    assert max(np.cumsum([change for _, change in events])) == most


def test_workers_are_at_least_one(spark):
    for wrong in (0, -1, 1.5, True, None):
        with pytest.raises(ConfigurationError, match="default_evaluation_workers: a whole number from 1 on"):
            SparkMultiLayer(spark, make_network(), default_evaluation_workers=wrong)
    model = SparkMultiLayer(spark, make_network())
    assert model.default_evaluation_workers == 4
    with pytest.raises(ConfigurationError, match="training_master: a TrainingMaster is needed, this is a str"):
        model.training_master = "shared"
