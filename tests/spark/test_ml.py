"""NetworkEstimator and NetworkModel among the stages and evaluators of pyspark.ml."""

import numpy as np
import pytest
import torch

from contracts.stages import NAMES, make_estimator, make_model, regression, weights
from contracts.table import CLASSES, WIDTH, make_master, make_network
from hvdspark.errors import ConfigurationError, DataError, UnsupportedError
from hvdspark.ml import NetworkEstimator, NetworkModel

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def fitted(small):
    estimator = make_estimator(maxIter=3, seed=11)
    return estimator, estimator.fit(small)


# ---- fit -----------------------------------------------------------------------------------------------------------


def test_a_fit_trains_a_copy_and_keeps_the_uid(fitted):
    estimator, model = fitted
    assert np.array_equal(weights(estimator.network), weights(make_network()))
    assert not np.array_equal(weights(model.network), weights(estimator.network))
    assert model.uid == estimator.uid
    assert (model.numFeatures, model.numClasses, model.numOutputs) == (WIDTH, CLASSES, CLASSES)


def test_max_iter_and_seed_act(fitted):
    summary = fitted[1].summary
    assert len(summary.history) == 3
    assert summary.seed == 11  # the master's own is 5
    assert fitted[0].training_master.rng_seed == 5


def test_all_other_params_act(small, tmp_path):
    estimator = make_estimator(
        featuresCols=NAMES,
        labelCol="target",
        predictionCol="guess",
        probabilityCol="how_sure",
        weightCol="nothing",
        validationIndicatorCol="held_back",
        batchSize=40,
        runDirectory=str(tmp_path),
    )
    table = small.drop("features").withColumnRenamed("label", "target")
    model = estimator.fit(table)
    (rank,) = model.summary.stats.ranks
    assert (rank.examples, rank.steps) == (80, 2)  # 20 are held back, 40 a step
    assert "validation_score" in model.summary.history[0]
    assert np.array_equal(weights(model.network), weights(make_network()))  # each row weighs nothing
    assert model.summary.run_directory.startswith(f"{tmp_path}/{estimator.uid}-")
    assert model.numFeatures == WIDTH
    assert model.transform(table).columns == [*table.columns, "guess", "how_sure"]
    assert 0 <= model.evaluate(table).accuracy <= 1


# ---- Params --------------------------------------------------------------------------------------------------------


def test_params_have_converters_setters_getters_and_explanations():
    estimator = make_estimator()
    given = {
        "featuresCol": "f",
        "featuresCols": ["f"],
        "labelCol": "l",
        "predictionCol": "p",
        "probabilityCol": "q",
        "weightCol": "w",
        "validationIndicatorCol": "v",
        "maxIter": 4,
        "batchSize": 8,
        "stepSize": 0.5,
        "seed": 7,
        "runDirectory": "r",
    }
    assert {param.name for param in estimator.params} == set(given)
    for name, value in given.items():
        capital = name[0].upper() + name[1:]
        assert getattr(estimator, f"set{capital}")(value) is estimator
        assert getattr(estimator, f"get{capital}")() == value
        assert f"{name}:" in estimator.explainParams()
    for name, wrong in (("maxIter", "many"), ("featuresCols", 3), ("stepSize", "fast"), ("labelCol", 1)):
        with pytest.raises(TypeError, match=name):
            estimator.setParams(**{name: wrong})
    assert not make_estimator().setParams(maxIter=9, weightCol=None).isDefined("weightCol")
    with pytest.raises(TypeError, match="keyword"):
        NetworkEstimator(make_network(), make_master())


def test_defaults():
    estimator = make_estimator()
    assert (estimator.getMaxIter(), estimator.getSeed()) == (1, None)
    assert (estimator.getFeaturesCol(), estimator.getLabelCol()) == ("features", "label")
    assert (estimator.getPredictionCol(), estimator.getProbabilityCol()) == ("prediction", "probability")
    assert not any(estimator.isDefined(name) for name in ("weightCol", "validationIndicatorCol", "batchSize"))


def test_copies_are_independent_but_share_the_network(fitted):
    estimator, model = fitted
    other = estimator.copy({estimator.maxIter: 9})
    assert (other.getMaxIter(), estimator.getMaxIter(), other.uid) == (9, 3, estimator.uid)
    assert other.network is estimator.network
    again = model.copy().setPredictionCol("other")
    assert model.getPredictionCol() == "prediction"
    assert again.network is model.network
    assert again.summary is model.summary


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"seed": -1}, "seed: a whole number from 0"),
        ({"maxIter": 0}, "maxIter: at least 1"),
        ({"batchSize": 0}, "batchSize: at least 1"),
        ({"stepSize": float("nan")}, "stepSize: a finite number"),
        ({"featuresCol": "features", "featuresCols": NAMES}, "are both set"),
    ],
)
def test_values_that_cannot_act_are_refused_by_name(small, params, words):
    with pytest.raises(ConfigurationError, match=words):
        make_estimator(**params).fit(small)


def test_params_that_the_network_has_no_use_for_are_refused(small):
    with pytest.raises(ConfigurationError, match="probabilityCol='p' cannot act: MSELoss"):
        make_estimator(regression(), probabilityCol="p").fit(small)
    network = make_network()
    network.optimizer = lambda parameters: torch.optim.SGD(parameters, 0.1)
    with pytest.raises(ConfigurationError, match=r"stepSize=0\.2 cannot act"):
        make_estimator(network, stepSize=0.2).fit(small)
    with pytest.raises(ConfigurationError, match="network: a Network is needed"):
        make_estimator(torch.nn.Linear(2, 2))
    with pytest.raises(ConfigurationError, match="training_master: a TrainingMaster is needed"):
        make_estimator(master="shared")


# ---- transform -----------------------------------------------------------------------------------------------------


def test_transform_keeps_columns_with_their_metadata_and_adds_two(small):
    from pyspark.ml.linalg import VectorUDT
    from pyspark.sql import functions

    about = {"ml_attr": {"type": "nominal", "vals": ["a", "b", "c"], "name": "label"}}
    table = small.withColumn("label", functions.col("label").alias("label", metadata=about))
    model = make_model()
    found = model.transform(table)
    assert found.schema["label"].metadata == about
    assert [(f.name, f.dataType) for f in found.schema] == [
        (f.name, f.dataType) for f in model.transformSchema(table.schema)
    ]
    assert found.columns[-2:] == ["prediction", "probability"]
    assert isinstance(found.schema["probability"].dataType, VectorUDT)
    rows = found.select("features", "prediction", "probability").collect()
    said = model.network.readable(model.network.module(torch.tensor([row.features for row in rows]))).detach().numpy()
    assert np.allclose([row.probability.toArray() for row in rows], said, atol=1e-6)
    assert [row.prediction for row in rows] == said.argmax(axis=1).tolist()


def test_names_that_are_taken_are_refused_and_others_work(small):
    model = make_model()
    taken = small.withColumnRenamed("id", "Prediction").withColumnRenamed("features", "probability")
    model.setFeaturesCol("probability")
    with pytest.raises(DataError, match="predictionCol: there is a column 'prediction' already"):
        model.transform(taken)
    with pytest.raises(DataError, match="probabilityCol: there is a column 'probability' already"):
        model.setPredictionCol("p").transform(taken)
    found = model.setProbabilityCol("q").transform(taken)
    assert found.columns == [*taken.columns, "p", "q"]
    first = found.first()
    assert first.p == first.q.argmax()
    assert model.setProbabilityCol("").transform(taken).columns == [*taken.columns, "p"]
    assert model.transform(small, {model.featuresCol: "features"}).columns == [*small.columns, "p"]


def test_evaluators_of_pyspark_work_on_the_output(small):
    from pyspark.ml.evaluation import (
        BinaryClassificationEvaluator,
        MulticlassClassificationEvaluator,
        RegressionEvaluator,
    )
    from pyspark.sql import functions

    network = make_network()
    found = make_model(network).transform(small).cache()
    features = torch.tensor([row.features for row in small.collect()])
    labels = torch.tensor([row.label for row in small.collect()])
    with torch.no_grad():
        loss = network.score(network.module(features), labels).item()
        accuracy = (network.module(features).argmax(1) == labels).float().mean().item()
    assert MulticlassClassificationEvaluator(metricName="logLoss").evaluate(found) == pytest.approx(loss, abs=1e-5)
    assert MulticlassClassificationEvaluator(metricName="accuracy").evaluate(found) == pytest.approx(accuracy)
    assert make_model(network).evaluate(small).accuracy == pytest.approx(accuracy)
    binary = found.withColumn("label", (functions.col("label") == 1).cast("double"))
    assert 0 <= BinaryClassificationEvaluator(rawPredictionCol="probability").evaluate(binary) <= 1

    model = NetworkModel(regression(), WIDTH, 1)
    values = model.transform(small)
    assert values.columns == [*small.columns, "prediction"]
    with torch.no_grad():
        error = torch.nn.functional.mse_loss(model.network.module(features).squeeze(1), labels.float()).item()
    assert RegressionEvaluator(metricName="mse").evaluate(values) == pytest.approx(error, rel=1e-5)
    with pytest.raises(UnsupportedError, match="numClasses"):
        _ = model.numClasses


@pytest.mark.parametrize(
    ("params", "words"),
    [
        ({"featuresCol": "pixels"}, "featuresCol: there is no column 'pixels'"),
        ({"featuresCol": "text"}, "featuresCol: the column 'text' is string"),
        ({"featuresCols": ["x0", "features"]}, "featuresCols: the column 'features' is array<float>"),
        ({"featuresCols": []}, "featuresCols is empty"),
        ({"labelCol": "text"}, "labelCol: the column 'text' is a string: index it first with StringIndexer"),
        ({"labelCol": "held_back_not"}, "labelCol: there is no column"),
        ({"weightCol": "text"}, "weightCol: the column 'text' is string"),
        ({"validationIndicatorCol": "id"}, "validationIndicatorCol: the column 'id' is int, and a boolean is needed"),
        ({"predictionCol": "id"}, "predictionCol: there is a column 'id' already"),
        ({"probabilityCol": "ID"}, "probabilityCol: there is a column 'ID' already"),
    ],
)
def test_columns_are_checked_before_anything_runs(small, params, words):
    from pyspark.sql import functions

    with pytest.raises(DataError, match=words):
        make_estimator(**params).fit(small.withColumn("text", functions.lit("a")))
