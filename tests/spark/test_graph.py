"""SparkComputationGraph: several inputs and outputs, from every source, against plain torch in one process."""

import functools

import numpy as np
import pytest
import torch
import torchmetrics
from sklearn import metrics
from torchmetrics.classification import MulticlassCohenKappa

from contracts.table import WIDTH, make_master
from contracts.table import make_network as make_layer
from hvdspark import (
    ClassMeasure,
    DataSet,
    JointLoss,
    MultiDataSet,
    Network,
    ParameterAveragingTrainingMaster,
    RegressionMeasure,
    SparkComputationGraph,
    SparkMultiLayer,
    TensorColumn,
)
from hvdspark.errors import ConfigurationError, DataError, UnsupportedError

pytestmark = [pytest.mark.spark, pytest.mark.timeout(300)]

SGD = functools.partial(torch.optim.SGD, lr=0.1)
INPUTS = {"tokens": TensorColumn("tokens", dtype="int64"), "numbers": ["a", "b"]}
LABELS = ["kind", "price"]


class TwoHeads(torch.nn.Module):
    """Classes and a value, of words and numbers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words = torch.nn.Embedding(20, 4)
        self.kind, self.price = torch.nn.Linear(6, 3), torch.nn.Linear(6, 1)

    def forward(self, numbers, tokens, features_mask=None):
        words = self.words(tokens)
        if features_mask is not None:
            mask = features_mask["tokens"] if isinstance(features_mask, dict) else features_mask[1]
            words = words * mask[..., None]
        both = torch.cat([numbers, words.mean(1)], dim=1)
        return self.kind(both), self.price(both)


def make_network(**options):
    loss = JointLoss([torch.nn.CrossEntropyLoss(), torch.nn.MSELoss()], [1.0, 0.3])
    return Network(TwoHeads(), loss, SGD, **options)


@functools.cache
def arrays():
    """Return numbers [90, 2], tokens [90, 5], kinds [90], prices [90]."""
    rng = np.random.default_rng(2)
    numbers, tokens = rng.normal(size=(90, 2)).astype(np.float32), rng.integers(0, 20, (90, 5))
    return numbers, tokens, (numbers[:, 0] > 0).astype(int) + (numbers[:, 1] > 0), numbers.sum(1)


def whole():
    numbers, tokens, kinds, prices = arrays()
    return MultiDataSet([numbers, tokens], [kinds, prices])


def said(network):
    """What the module says of all rows: probabilities [90, 3] and values [90]; and the loss of each."""
    numbers, tokens, kinds, prices = map(torch.from_numpy, arrays())
    with torch.no_grad():
        scores, values = network.module(numbers, tokens)
        each = torch.nn.functional.cross_entropy(scores, kinds, reduction="none")
        each = each + 0.3 * (values[:, 0] - prices) ** 2
    return torch.softmax(scores, 1).numpy(), values[:, 0].numpy(), each.double().numpy()


@pytest.fixture(scope="module")
def frame(spark):
    rows = [
        (i, t.tolist(), *map(float, n), int(k), float(p), float(i % 3))
        for i, (n, t, k, p) in enumerate(zip(*arrays(), strict=True))
    ]
    schema = "id int, tokens array<int>, a double, b double, kind int, price float, w double"
    return spark.createDataFrame(rows, schema).repartition(2).cache()


@pytest.fixture(scope="module")
def sources(spark, frame, tmp_path_factory):
    """The same rows as everything that fit takes."""
    saved, table = tmp_path_factory.mktemp("saved"), str(tmp_path_factory.mktemp("tables") / "table.parquet")
    for number, part in enumerate(whole().batch_by(40)):
        part.save(saved / f"{number}.safetensors")
    frame.write.parquet(table)
    paths = [str(path) for path in sorted(saved.iterdir())]
    context = spark.sparkContext
    return {
        "table": frame,
        "parquet": table,
        "objects": context.parallelize(whole().split(7), 2),
        "folder": str(saved),
        "paths": context.parallelize(paths, 2),
        "list": paths,
    }


def graph(spark, network=None, master=None, **columns):
    columns = {"feature_cols": INPUTS, "label_cols": LABELS, **columns}
    return SparkComputationGraph(spark, network or make_network(), master, **columns)


# ---- training ------------------------------------------------------------------------------------------------------


@pytest.mark.horovod
def test_fit_from_every_source_sees_the_same_rows(spark, sources):
    still = functools.partial(torch.optim.SGD, lr=0.0)
    for name in ("table", "objects", "folder", "paths"):
        data, network = sources[name], make_network()
        network.optimizer = still
        model = graph(spark, network, make_master(exchange="dense", num_workers=1, batch_size_per_worker=90))
        result = model.fit(data, validation=data if name == "table" else None)
        assert result.score == pytest.approx(said(network)[2].mean(), rel=1e-6), name
    assert model.score == result.score


@pytest.mark.horovod
def test_parameter_averaging_learns_both_outputs(spark, frame):
    master = ParameterAveragingTrainingMaster(batch_size_per_worker=8, num_workers=2, averaging_frequency=2)
    model = graph(spark, master=master)
    before = model.calculate_score(frame)
    model.fit(frame, epochs=4)
    assert model.calculate_score(frame) < before / 1.5
    assert set(model.evaluate_regression(frame)) == {"price"}


@pytest.mark.horovod
def test_one_input_and_one_output_are_those_of_the_layer(spark, table):
    x = np.array([row.features for row in table.select("features").collect()], np.float32)
    y = x[:, :3].argmax(1)
    data = spark.sparkContext.parallelize(DataSet(x, y).split(50), 2)
    model = SparkComputationGraph(spark, make_layer(), make_master())
    model.fit(data)
    layer = SparkMultiLayer(spark, model.network)
    np.testing.assert_array_equal(model.predict(x), layer.predict(x))
    expected = model.evaluate(table)
    assert layer.evaluate(table) == expected
    added = ["id", "features", "label", "prediction", "probability"]
    assert model.predict(table).columns == layer.predict(table).columns == added
    assert model.evaluate_roc_multi_class(data, output="label").average_auc > 0.5
    (only,) = model.do_evaluation(data, ClassMeasure())
    assert only == expected
    with pytest.raises(ConfigurationError, match=r"evaluate_regression compares values.*the loss is CrossEntropyLoss"):
        model.evaluate_regression(data)


# ---- scores and evaluation -----------------------------------------------------------------------------------------


def test_scores_equal_a_plain_loop(spark, sources, frame):
    network = make_network(l2=0.1)
    model, (_, _, each) = graph(spark, network), said(network)
    for name, data in sources.items():
        assert model.calculate_score(data, batch_size=16) == pytest.approx(each.mean(), rel=1e-6), name
    assert model.calculate_score(frame, average=False) == pytest.approx(each.sum(), rel=1e-6)
    penalty = network.penalty().item()
    rows = model.score_examples(frame, include_regularization=True).collect()
    np.testing.assert_allclose(
        [row.score - penalty for row in rows], each[[row.id for row in rows]], rtol=1e-6, atol=1e-6
    )
    found = model.score_examples(sources["objects"]).collect()
    np.testing.assert_allclose(found, each, rtol=1e-6, atol=1e-6)
    pairs = spark.sparkContext.parallelize([(f"k{i}", one) for i, one in enumerate(whole().split(1)[:20])], 2)
    keyed = model.score_examples(pairs, include_regularization=True, batch_size=4).collect()
    assert [key for key, _ in keyed] == [f"k{i}" for i in range(20)]
    np.testing.assert_allclose([score - penalty for _, score in keyed], each[:20], rtol=1e-6, atol=1e-6)
    weighted = graph(spark, network, weight_col="w")
    assert weighted.calculate_score(frame) == pytest.approx((each * (np.arange(90) % 3)).mean(), rel=1e-6)


def test_each_output_is_evaluated(spark, sources, frame):
    network, (_, _, kinds, prices) = make_network(), arrays()
    model, (probabilities, values, _) = graph(spark, network), said(network)
    matrix = metrics.confusion_matrix(kinds, probabilities.argmax(1))
    for name in ("table", "objects", "folder"):
        found = model.evaluate(sources[name], labels=("x", "y", "z"))
        assert list(found) == ["kind"]
        np.testing.assert_array_equal(found["kind"].confusion_matrix, matrix)
        assert found["kind"].class_names == ("x", "y", "z")
    mse = metrics.mean_squared_error(prices, values)
    regression = model.evaluate_regression(frame, columns={"price": ["euro"]})
    assert regression["price"].mse[0] == pytest.approx(mse, rel=1e-5)
    assert regression["price"].column_names == ("euro",)
    assert model.evaluate_regression(frame, output=1).mse[0] == pytest.approx(mse, rel=1e-5)
    rocs = model.evaluate_roc_multi_class(frame, output="kind", threshold_steps=0)
    for label, roc in enumerate(rocs.rocs):
        assert roc.auc == pytest.approx(metrics.roc_auc_score(kinds == label, probabilities[:, label]), abs=1e-6)
    wanted = {"kind": [ClassMeasure(top_n=2), MulticlassCohenKappa(3)], "price": torchmetrics.MeanAbsoluteError()}
    found = model.do_evaluation(frame, wanted)
    assert {name: len(some) for name, some in found.items()} == {"kind": 2, "price": 1}
    np.testing.assert_array_equal(found["kind"][0].confusion_matrix, matrix)
    kappa = found["kind"][1]["MulticlassCohenKappa"]
    assert kappa == pytest.approx(metrics.cohen_kappa_score(kinds, probabilities.argmax(1)), abs=1e-6)
    mae = found["price"][0]["MeanAbsoluteError"]
    assert mae == pytest.approx(metrics.mean_absolute_error(prices, values), rel=1e-5)
    (by_number,) = model.do_evaluation(sources["objects"], RegressionMeasure(output=1))
    assert by_number.mae[0] == pytest.approx(mae, rel=1e-5)


# ---- prediction ----------------------------------------------------------------------------------------------------


def test_a_table_keeps_its_columns_and_gets_some_for_each_output(spark, frame):
    network = make_network()
    probabilities, values, _ = said(network)
    odd = graph(spark, network, label_cols={"my.Kind": "kind", "price": "price"}).predict(frame)
    assert odd.columns == [*frame.columns, "prediction_my.Kind", "probability_my.Kind", "prediction_price"]
    rows = odd.collect()
    ids = [row.id for row in rows]
    np.testing.assert_array_equal([row["prediction_my.Kind"] for row in rows], probabilities[ids].argmax(1))
    found = [row["probability_my.Kind"].toArray() for row in rows]
    np.testing.assert_allclose(found, probabilities[ids], atol=1e-6)
    np.testing.assert_allclose([row.prediction_price for row in rows], values[ids], atol=1e-6)
    with pytest.raises(DataError, match="a column 'PREDICTION_kind' already: drop or rename it before predict"):
        graph(spark, network).predict(frame.withColumnRenamed("id", "PREDICTION_kind"))
    assert graph(spark, network).predict(frame.limit(0)).columns[-1] == "prediction_price"
    network.output = lambda outputs: outputs[1]  # one thing is said
    assert graph(spark, network).predict(frame).columns == [*frame.columns, "prediction"]


def test_what_the_driver_holds_comes_back_in_its_form():
    network, (numbers, tokens, _, _) = make_network(), arrays()
    model, (probabilities, values, _) = graph(None, network), said(network)  # no session is needed
    for given in ([numbers, tokens], (numbers, tokens), {"tokens": tokens, "numbers": numbers}):
        found = model.predict(given, batch_size=32)
        assert type(found) is type(given)
        kind, price = (found["kind"], found["price"]) if isinstance(found, dict) else found
        assert isinstance(kind, np.ndarray)
        np.testing.assert_allclose(kind, probabilities, atol=1e-6)
        np.testing.assert_allclose(price[:, 0], values, atol=1e-6)
    kind, price = model.predict([torch.from_numpy(numbers[0]), torch.from_numpy(tokens[0])])
    assert isinstance(kind, torch.Tensor)
    np.testing.assert_allclose(kind.numpy(), probabilities[0], atol=1e-6)
    np.testing.assert_allclose(price.numpy(), values[:1], atol=1e-6)
    for given, words in (
        ([numbers], "predict: TwoHeads.forward needs the input 'tokens' as well: 1 are given"),
        ([numbers, tokens, tokens], r"predict: TwoHeads.forward takes 2 inputs \(numbers, tokens\), and 3 are given"),
        ({"words": tokens, "numbers": numbers}, "no argument 'words' for an input: it has numbers, tokens"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            model.predict(given)
    with pytest.raises(DataError, match=r"inputs of shapes \[\[90, 2\], \[3, 5\]\] are not"):
        model.predict([numbers, tokens[:3]])
    with pytest.raises(DataError, match="NaN or infinity in the ndarray of input 'numbers'"):
        model.predict({"tokens": tokens, "numbers": numbers * np.nan})
    with pytest.raises(UnsupportedError, match="an input is an array, a tensor or Spark's, and this is a str"):
        model.predict([numbers, "tokens"])


def test_outputs_keep_their_keys(spark):
    network, (numbers, tokens, _, _) = make_network(), arrays()
    model, context = graph(spark, network), spark.sparkContext
    lengths = [1 + i % 3 for i in range(30)]
    masks = [np.arange(n) < 2 for n in lengths]
    inputs = [[numbers[i], tokens[i, :n]] for i, n in enumerate(lengths)]

    def expected(i, mask):
        with torch.no_grad():
            x, t = torch.from_numpy(numbers[i : i + 1]), torch.from_numpy(tokens[i : i + 1, : lengths[i]])
            m = None if mask is None else (None, torch.from_numpy(mask)[None])
            kind, price = network.module(x, t, m)
        return torch.softmax(kind, 1)[0].numpy(), price[0].numpy()

    plain = context.parallelize([(f"k{i}", inputs[i]) for i in range(30)], 2)
    dicts = [dict(zip(("numbers", "tokens"), inputs[i], strict=True)) for i in range(30)]
    named = context.parallelize([(i, (dicts[i], {"tokens": masks[i]})) for i in range(30)], 2)
    masked = context.parallelize([(i, (inputs[i], [None, masks[i]])) for i in range(30)], 2)
    for pairs, form, with_mask in ((plain, list, False), (named, dict, True), (masked, list, True)):
        for i, (key, found) in enumerate(model.feed_forward_with_key(pairs, batch_size=5).collect()):
            assert key == (i if with_mask else f"k{i}")
            assert type(found) is form
            kind, price = found.values() if form is dict else found
            told = expected(i, masks[i] if with_mask else None)
            np.testing.assert_allclose(kind, told[0], atol=1e-6)
            np.testing.assert_allclose(price, told[1], atol=1e-6)
    with pytest.raises(Exception, match=r"key 'k': TwoHeads.forward needs the input 'tokens'"):
        model.feed_forward_with_key(context.parallelize([("k", [numbers[0]])], 1)).collect()
    with pytest.raises(UnsupportedError, match=r"an RDD of .key, inputs. is needed, this is a dict"):
        model.feed_forward_with_key({})


def test_streams_are_predicted(spark, frame, tmp_path):
    frame.select("*", *[frame.a.alias(f"x{i}") for i in range(WIDTH)]).write.parquet(str(tmp_path / "rows"))
    stream = spark.readStream.schema(spark.read.parquet(str(tmp_path / "rows")).schema).parquet(str(tmp_path / "rows"))
    columns = [f"x{i}" for i in range(WIDTH)]
    inputs = {**INPUTS, "tokens": TensorColumn("tokens", shape=(5,), dtype="int64")}
    network, layer = make_network(), SparkMultiLayer(spark, make_layer(), features_col=columns)
    for name, model in (("graph", graph(spark, network, feature_cols=inputs)), ("layer", layer)):
        predicted = model.predict(stream)
        assert predicted.isStreaming
        query = predicted.writeStream.format("memory").queryName(name).trigger(availableNow=True).start()
        assert query.awaitTermination(60)
    rows = spark.table("graph").collect()
    expected = said(network)[1][[row.id for row in rows]]
    np.testing.assert_allclose([row.prediction_price for row in rows], expected, atol=1e-6)
    assert spark.table("layer").where("prediction is not null").count() == 90
    with pytest.raises(DataError, match=r"the shape of column 'tokens' is not known .*: say TensorColumn\('tokens', "):
        graph(spark, network).predict(stream)


# ---- what is refused -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"feature_cols": "tokens"}, r"feature_cols: a list .* is needed, not 'tokens': \['tokens'\] for one"),
        ({"feature_cols": []}, "feature_cols: at least one is needed"),
        (
            {"label_cols": ["kind", None]},
            "label_cols: the name of a column, a list of names or a TensorColumn, not None",
        ),
        ({"features_mask_cols": {"words": "w"}}, "features_mask_cols: 'words' is none of tokens, numbers"),
        ({"labels_mask_cols": ["w"]}, "labels_mask_cols: 1 are given for 2: give one for each, None for those without"),
        ({"labels_mask_cols": {"size": "w"}}, "labels_mask_cols: 'size' is none of kind, price"),
    ],
)
def test_options_that_cannot_be(columns, words):
    with pytest.raises(ConfigurationError, match=words):
        graph(None, **columns)


@pytest.mark.parametrize(
    ("columns", "error", "words"),
    [
        ({"label_cols": ["kind", "prise"]}, DataError, "'prise' is not there: did you mean 'price'"),
        ({"label_cols": ["kind"]}, ConfigurationError, "2 outputs, by its JointLoss, and 1 have a label column"),
        ({"feature_cols": [["a", "b"]]}, ConfigurationError, "feature_cols: TwoHeads.forward needs the input 'tokens'"),
        ({"feature_cols": ["a", "b", "tokens"]}, ConfigurationError, r"takes 2 inputs \(numbers, tokens\), and 3 are"),
        ({"feature_cols": {"numbers": ["a", "b"], "words": "w"}}, ConfigurationError, "has no argument 'words' for an"),
    ],
)
def test_columns_that_do_not_fit(spark, frame, columns, error, words):
    with pytest.raises(error, match=words):
        graph(spark, **columns).calculate_score(frame)


def test_a_mask_of_one_output_leaves_the_other_alone(spark, frame):
    network, (_, _, kinds, prices) = make_network(), arrays()
    probabilities, values, _ = said(network)
    counts = np.arange(90) % 3 > 0
    losses = -np.log(probabilities[np.arange(90), kinds].astype(float)) * counts + 0.3 * (values - prices) ** 2
    model = graph(spark, network, labels_mask_cols={"kind": "counts"})
    data = frame.withColumn("counts", frame.w > 0)
    assert model.calculate_score(data) == pytest.approx(losses.mean(), rel=1e-6)
    assert model.evaluate(data, output="kind").num_examples == counts.sum()


def test_outputs_that_are_not_there(spark, frame):
    model = graph(spark)
    assert model.output_names == ("kind", "price")
    with pytest.raises(ConfigurationError, match="evaluate: there is no output 'size'; there are 'kind', 'price'"):
        model.evaluate(frame, output="size")
    with pytest.raises(ConfigurationError, match=r"evaluate counts classes, but .*\('price' by MSELoss\)"):
        model.evaluate(frame, output="price")
    with pytest.raises(ConfigurationError, match="labels: there is no output 'size'"):
        model.evaluate(frame, labels={"size": ["s", "l"]})
    with pytest.raises(ConfigurationError, match="do_evaluation: there is no output 2"):
        model.do_evaluation(frame, {2: ClassMeasure()})
    with pytest.raises(ConfigurationError, match="fit needs a training master: SparkComputationGraph"):
        model.fit(frame)
    with pytest.raises(UnsupportedError, match="list, tuple or dict of them, and this is a str"):
        model.predict("frame")
    own = Network(TwoHeads(), lambda outputs, targets: outputs[1].mean(), SGD)
    rows = spark.sparkContext.parallelize([whole()], 1)
    with pytest.raises(ConfigurationError, match="rows have 2 labels, and the network is not known to have several"):
        SparkComputationGraph(spark, own).evaluate_regression(rows)
