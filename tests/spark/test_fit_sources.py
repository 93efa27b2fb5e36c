"""fit on everything that it takes, with real ranks: one path behind all, and all that rows hold reaches the loss."""

import functools

import numpy as np
import pytest
import torch

from contracts.table import WIDTH, make_master, make_network, make_rows
from hvdspark import DataSet, MultiDataSet, Network, SparkMultiLayer, TensorColumn
from hvdspark.data import RDDSource, Table, TableSource, plan_fields
from hvdspark.errors import ConfigurationError, DataError, UnsupportedError

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(300)]

SCHEMA = "id int, features array<float>, label int"
STILL = functools.partial(torch.optim.SGD, lr=0.0)  # scores are those of the weights that were given


def rows_as_arrays():
    _, features, labels = zip(*make_rows(), strict=True)
    return np.array(features, np.float32), np.array(labels)


def trained(spark, data, method="fit", **options):
    """The weights after an epoch, as bytes."""
    model = SparkMultiLayer(spark, make_network(), make_master())
    result = getattr(model, method)(data, **options)
    assert sum(rank.examples for rank in result.stats.ranks) == 400
    return torch.cat([p.reshape(-1) for p in model.network.module.parameters()]).detach().numpy().tobytes()


def load_npz(path):
    with np.load(path) as found:
        return DataSet(found["x"], found["y"])


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_all_ways_in_train_the_same(spark, tmp_path):
    """The same rows in the same order: bit for bit the same weights, whatever they came in."""
    x, y = rows_as_arrays()
    whole = DataSet(x, y)
    frame = spark.createDataFrame(make_rows(), SCHEMA).coalesce(1).sortWithinPartitions("id")
    expected = trained(spark, frame)
    frame.write.parquet(str(tmp_path / "table"))
    for name in ("saved", "npz"):
        (tmp_path / name).mkdir()
    whole.save(tmp_path / "saved" / "all.safetensors")
    np.savez(tmp_path / "npz" / "all.npz", x=x, y=y)
    context = spark.sparkContext
    assert trained(spark, context.parallelize(whole.split(7), 1)) == expected
    assert trained(spark, context.parallelize([MultiDataSet.of(whole)], 1)) == expected
    assert trained(spark, context.parallelize([str(tmp_path / "saved" / "all.safetensors")], 1)) == expected
    assert trained(spark, str(tmp_path / "saved")) == expected
    assert trained(spark, [tmp_path / "saved" / "all.safetensors"]) == expected
    assert trained(spark, tmp_path / "npz", loader=load_npz) == expected
    assert trained(spark, str(tmp_path / "table")) == expected
    assert trained(spark, f"file://{tmp_path}/table", validation=str(tmp_path / "saved")) == expected


def test_labelled_points(spark):
    from pyspark.mllib.regression import LabeledPoint

    x, y = rows_as_arrays()
    frame = spark.createDataFrame(make_rows(), SCHEMA).coalesce(1).sortWithinPartitions("id")
    points = spark.sparkContext.parallelize([LabeledPoint(b, a) for a, b in zip(x, y, strict=True)], 1)
    assert trained(spark, points, "fit_labeled_point", validation=points) == trained(spark, frame)
    model = SparkMultiLayer(spark, make_network(), make_master())
    with pytest.raises(ConfigurationError, match="fit_labeled_point for classes"):
        model.fit_continuous_labeled_point(points)
    with pytest.raises(UnsupportedError, match="an RDD of LabeledPoint is needed, this is a DataFrame"):
        model.fit_labeled_point(frame)
    with pytest.raises(DataError, match="'labels' has fractions in 1 row"):
        model.fit_labeled_point(spark.sparkContext.parallelize([(0.5, [1.0] * WIDTH)]))
    network = make_network(torch.nn.MSELoss(), outputs=1, lr=0.02)
    pairs = spark.sparkContext.parallelize([(float(a[0] - a[1]), a) for a in x], 3)
    model = SparkMultiLayer(spark, network, make_master(exchange="dense"))
    result = model.fit_continuous_labeled_point(pairs, epochs=5)
    assert result.score < 0.3 * result.history[0]["score"]


def test_weights_and_a_validation_column_reach_the_score(spark):
    from pyspark.sql import functions as f

    frame = spark.createDataFrame(make_rows(), SCHEMA).repartition(3)
    frame = frame.withColumn("w", f.col("id") % 5 / 2).withColumn("held_back", f.col("id") % 4 == 0)
    network = make_network(lr=0.0)
    model = SparkMultiLayer(spark, network, make_master(exchange="dense"), weight_col="w")
    result = model.fit(frame, validation="held_back")
    assert sum(rank.examples for rank in result.stats.ranks) == 300
    x, y = rows_as_arrays()
    ids = np.arange(400)
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(
            network.module(torch.from_numpy(x)), torch.from_numpy(y), reduction="none"
        ).numpy()
    weighted = losses * (ids % 5 / 2)
    assert result.score == pytest.approx(weighted[ids % 4 != 0].mean(), rel=1e-5)
    assert result.history[0]["validation_score"] == pytest.approx(weighted[ids % 4 == 0].mean(), rel=1e-5)
    model.evaluate(frame)
    assert len(model.predict(frame).collect()) == frame.count()


class Sequence(torch.nn.Module):
    """Says a class at every step; steps that do not count are not looked at."""

    def __init__(self):
        super().__init__()
        self.each = torch.nn.Linear(2, 3)

    def forward(self, x, features_mask):
        return self.each(x * features_mask[:, :, None]).transpose(1, 2)


def test_masks_reach_the_module_and_the_loss(spark):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(50, 4, 2)).astype(np.float32)
    y, mask = rng.integers(0, 3, (50, 4)), rng.random((50, 4)) < 0.7
    rows = [(a.tolist(), b.tolist(), m.tolist()) for a, b, m in zip(x, y, mask, strict=True)]
    frame = spark.createDataFrame(rows, "x array<array<float>>, y array<int>, m array<boolean>")
    network = Network(Sequence(), torch.nn.CrossEntropyLoss(), STILL)
    masters = make_master(exchange="dense")
    columns = {"features_col": "x", "features_mask_col": "m", "labels_mask_col": "m"}
    label = TensorColumn("y", dtype="int64")
    found = SparkMultiLayer(spark, network, masters, label_col=label, **columns).fit(frame).score
    with torch.no_grad():
        output = network.module(torch.from_numpy(x), torch.from_numpy(mask))
        losses = torch.nn.functional.cross_entropy(output, torch.from_numpy(y), reduction="none").numpy()
    expected = (losses * mask).sum(1) / np.maximum(mask.sum(1), 1)
    assert found == pytest.approx(expected.mean(), rel=1e-5)
    data = spark.sparkContext.parallelize(DataSet(x, y, mask, mask).split(9), 2)
    assert SparkMultiLayer(spark, network, masters).fit(data).score == pytest.approx(found, rel=1e-5)


class TwoInTwoOut(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.words = torch.nn.Embedding(50, 3)
        self.both = torch.nn.Linear(3 + 2, 4)

    def forward(self, numbers, tokens):
        out = self.both(torch.cat([self.words(tokens).mean(1), numbers], 1))
        return out[:, :3], out[:, 3:]


def two_losses(outputs, targets):
    classes, values = (target.reshape(len(target), -1) for target in targets)
    return torch.nn.functional.cross_entropy(outputs[0], classes[:, 0]) + torch.nn.functional.mse_loss(
        outputs[1], values
    )


def test_several_inputs_and_outputs(spark):
    """By name from a table, in order from MultiDataSets: the same scores, those that the module gives by hand."""
    rng = np.random.default_rng(2)
    numbers, tokens = rng.normal(size=(60, 2)).astype(np.float32), rng.integers(0, 50, (60, 5))
    classes, values = rng.integers(0, 3, 60), rng.normal(size=60).astype(np.float32)
    rows = [
        (t.tolist(), *map(float, n), int(c), float(v))
        for t, n, c, v in zip(tokens, numbers, classes, values, strict=True)
    ]
    frame = spark.createDataFrame(rows, "tokens array<int>, a float, b float, c int, v float").repartition(3)
    plan = plan_fields(
        frame,
        feature_cols={"tokens": TensorColumn("tokens", dtype="int64"), "numbers": ["a", "b"]},
        label_cols=["c", "v"],
    )
    torch.manual_seed(0)
    network = Network(TwoInTwoOut(), two_losses, STILL)
    with torch.no_grad():
        outputs = network.module(torch.from_numpy(numbers), torch.from_numpy(tokens))
        expected = float(two_losses(outputs, (torch.from_numpy(classes), torch.from_numpy(values))))
    data = MultiDataSet([numbers, tokens], [classes, values])
    rdd = RDDSource(spark.sparkContext.parallelize(data.split(7), 3), spark)
    for source in (TableSource(Table(frame, plan)), rdd):
        result = make_master(exchange="dense").fit(spark, network, source, validation=source)
        assert result.score == pytest.approx(expected, rel=1e-5)
        assert result.history[0]["validation_score"] == pytest.approx(expected, rel=1e-5)


def test_binary_columns_are_decoded_on_the_workers(spark, tmp_path):
    from pyspark.sql import functions as f

    frame = spark.createDataFrame(make_rows(), SCHEMA).coalesce(1).sortWithinPartitions("id")
    expected = trained(spark, frame)
    packed = f.udf(lambda values: bytearray(np.array(values, np.float32).tobytes()), "binary")
    picture = TensorColumn("picture", decode=lambda data: np.frombuffer(data, np.float32))
    model = SparkMultiLayer(spark, make_network(), make_master(), features_col=picture)
    binary = frame.select("label", packed("features").alias("picture"))
    model.fit(binary)
    weights = torch.cat([p.reshape(-1) for p in model.network.module.parameters()]).detach().numpy().tobytes()
    assert weights == expected
    assert model.evaluate(binary).num_examples == 400
    assert model.predict(binary).columns == ["label", "picture", "prediction", "probability"]


# ---- what is refused, before anything is read ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"features_mask_col": "features"}, "forward takes no argument features_mask"),
        ({"weight_col": "id"}, "a weight column needs the loss of each example"),
        ({"labels_mask_col": "features"}, "a labels mask needs the loss of each example"),
    ],
)
def test_what_would_reach_nobody(spark, table, tmp_path, columns, words):
    from pyspark.sql import functions as f

    def loss_of_a_batch(output, target):
        return torch.nn.functional.cross_entropy(output, target)

    network = make_network(loss_of_a_batch)
    never = f.when(f.col("id") >= 0, f.raise_error(f.lit("rows were read first"))).otherwise(0)
    model = SparkMultiLayer(spark, network, make_master(), **columns)
    with pytest.raises(ConfigurationError, match=words):
        model.fit(table.withColumn("label", never.cast("int")), run_directory=str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_masks_of_objects_that_would_reach_nobody(spark, tmp_path):
    x, y = rows_as_arrays()
    data = spark.sparkContext.parallelize([DataSet(x, y, np.ones_like(x))], 1)
    with pytest.raises(ConfigurationError, match="forward takes no argument features_mask"):
        SparkMultiLayer(spark, make_network(), make_master()).fit(data, run_directory=str(tmp_path))
    assert not list(tmp_path.glob("staged-*"))


def test_what_is_no_data(spark, table, tmp_path):
    model = SparkMultiLayer(spark, make_network(), make_master())
    known = r"a DataFrame; an RDD of DataSet, MultiDataSet, LabeledPoint, .* paths; a path .* Parquet, .* loader="
    for data, this in ((3, "int"), ([1, "a"], "list with a int in it"), ({"a": 1}, "dict"), (b"path", "bytes")):
        with pytest.raises(UnsupportedError, match=f"this is a {this}; what can be trained on is {known}"):
            model.fit(data)
    with pytest.raises(DataError, match=f"there is no file or folder {tmp_path}/nowhere"):
        model.fit(tmp_path / "nowhere")
    with pytest.raises(DataError, match="the list of paths is empty"):
        model.fit([])
    (tmp_path / "notes.txt").write_text("no data")
    with pytest.raises(DataError, match=r"the folder .* holds .*notes\.txt, which is neither \.safetensors .* loader="):
        model.fit(str(tmp_path))
    with pytest.raises(ConfigurationError, match="loader reads files one by one, and a DataFrame has none"):
        model.fit(table, loader=load_npz)
    with pytest.raises(ConfigurationError, match="loader: a function is needed, this is a str"):
        model.fit(str(tmp_path), loader="npz")
    with pytest.raises(
        DataError, match="validation='held' is neither a path nor one of the columns id, features, label"
    ):
        model.fit(table, validation="held")
    with pytest.raises(DataError, match="'label' is of type int, a boolean is needed"):
        model.fit(table, validation="label")


def test_validation_of_another_shape(spark, table):
    other = spark.sparkContext.parallelize([DataSet(np.ones((3, WIDTH + 1)), np.zeros(3, int))])
    with pytest.raises(DataError, match=r"'features' of the validation data is \[7\] float32 a row, 'features' of the"):
        SparkMultiLayer(spark, make_network(), make_master()).fit(table, validation=other)
