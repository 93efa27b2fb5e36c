"""NetworkEstimator and NetworkModel among the stages, searches and evaluators of pyspark.ml."""

import functools
import gc
import json
import os
import shutil
import subprocess
import sys
import uuid
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from contracts.table import CLASSES, WIDTH, make_master, make_network, make_rows
from hvdspark import Network, TrainingListener
from hvdspark.errors import ConfigurationError, DataError, ModelError, StorageError, UnsupportedError
from hvdspark.ml import NetworkEstimator, NetworkModel

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(180)]

NAMES = [f"x{i}" for i in range(WIDTH)]


def make_estimator(network=None, master=None, **params):
    master = master or make_master(num_workers=1)  # one rank, for speed: how ranks agree is tested elsewhere
    return NetworkEstimator(network=network or make_network(), training_master=master, **params)


def make_model(network=None, **options):
    return NetworkModel(network or make_network(), WIDTH, CLASSES, **options)


def regression():
    return Network(torch.nn.Linear(WIDTH, 1), torch.nn.MSELoss(), functools.partial(torch.optim.SGD, lr=0.1))


def weights(network):
    return torch.nn.utils.parameters_to_vector(network.module.parameters()).detach().numpy().copy()


@pytest.fixture(scope="module")
def small(spark):
    """100 rows in both forms: an array, and a column a number; 20 of them held back."""
    rows = [(i, x, y, *x, i % 5 == 0, 0.0) for i, x, y in make_rows(100)]
    names = ", ".join(f"{name} double" for name in NAMES)
    schema = f"id int, features array<float>, label int, {names}, held_back boolean, nothing double"
    return spark.createDataFrame(rows, schema).repartition(2).cache()


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


# ---- searches ------------------------------------------------------------------------------------------------------


def run(search, table):
    """Fit; the thread pool that pyspark leaves open is collected here, not in whatever test comes next."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "unclosed running multiprocessing pool", ResourceWarning)
        found = search.fit(table)
        gc.collect()
    return found


@pytest.fixture(scope="module")
def searched(small):
    from pyspark.ml import Pipeline
    from pyspark.ml.evaluation import MulticlassClassificationEvaluator
    from pyspark.ml.feature import VectorAssembler
    from pyspark.ml.tuning import CrossValidator, ParamGridBuilder

    estimator = make_estimator(featuresCol="assembled", maxIter=2)
    pipeline = Pipeline(stages=[VectorAssembler(inputCols=NAMES, outputCol="assembled"), estimator])
    grid = ParamGridBuilder().addGrid(estimator.stepSize, [0.0, 0.2]).build()
    search = CrossValidator(
        estimator=pipeline,
        estimatorParamMaps=grid,
        evaluator=MulticlassClassificationEvaluator(metricName="logLoss"),
        numFolds=2,
        seed=1,
        collectSubModels=True,
    )
    return estimator, run(search, small)


def test_cross_validator_over_a_pipeline(searched):
    estimator, found = searched
    assert found.avgMetrics[1] < found.avgMetrics[0]
    # every fit began at the estimator's own weights: without a step they are what comes out, in each fold
    for fold in found.subModels:
        assert np.array_equal(weights(fold[0].stages[-1].network), weights(make_network()))
    best = found.bestModel.stages[-1]
    assert best.uid == estimator.uid
    assert not np.array_equal(weights(best.network), weights(make_network()))


def test_a_search_is_saved_and_loaded(searched, tmp_path):
    from pyspark.ml.tuning import CrossValidatorModel

    found = searched[1]
    found.write().option("persistSubModels", "false").save(str(tmp_path / "search"))
    again = CrossValidatorModel.load(str(tmp_path / "search"))
    assert again.avgMetrics == found.avgMetrics
    assert again.bestModel.uid == found.bestModel.uid
    assert np.array_equal(weights(again.bestModel.stages[-1].network), weights(found.bestModel.stages[-1].network))


def test_train_validation_split(small):
    from pyspark.ml.evaluation import MulticlassClassificationEvaluator
    from pyspark.ml.tuning import ParamGridBuilder, TrainValidationSplit

    estimator = make_estimator()
    grid = ParamGridBuilder().addGrid(estimator.maxIter, [2]).build()
    search = TrainValidationSplit(
        estimator=estimator, estimatorParamMaps=grid, evaluator=MulticlassClassificationEvaluator(), seed=1
    )
    found = run(search, small)
    assert len(found.bestModel.summary.history) == 2
    assert 0 <= found.validationMetrics[0] <= 1


# ---- files ---------------------------------------------------------------------------------------------------------

NET = """
import torch

class Net(torch.nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.one, self.two = torch.nn.Linear(6, hidden), torch.nn.Linear(hidden, 3)

    def forward(self, x):
        return self.two(self.one(x).relu())
"""

LOAD = """
import sys
import uuid
from pyspark.ml import PipelineModel
from pyspark.sql import SparkSession
from hvdspark import Network
from hvdspark.errors import ModelError
from own_net import Net

if __name__ == "__main__":
    spark = SparkSession.builder.master("local[1]").config("spark.ui.enabled", "false").getOrCreate()
    try:
        PipelineModel.load(sys.argv[1])
    except ModelError as error:
        print("refused", error)
    Network.known.append(Net)
    model = PipelineModel.load(sys.argv[1])
    stage = model.stages[-1]
    print("loaded", type(stage).__name__, stage.uid, stage.getPredictionCol(), stage.hasSummary, stage.numClasses)
    row = model.transform(spark.createDataFrame([[float(i) for i in range(6)]], [f"x{i}" for i in range(6)])).first()
    print("says", row.guess, round(row.probability[0], 6))
    stage.save(sys.argv[2])
    spark.stop()
"""


def test_a_pipeline_is_loaded_in_a_fresh_process_by_known_classes_only(spark, tmp_path, monkeypatch):
    from pyspark.ml import PipelineModel
    from pyspark.ml.feature import VectorAssembler

    (tmp_path / "own_net.py").write_text(NET)
    (tmp_path / "load.py").write_text(LOAD)
    monkeypatch.syspath_prepend(tmp_path)
    import own_net

    sgd = functools.partial(torch.optim.SGD, lr=0.1)
    network = Network(own_net.Net(5), torch.nn.CrossEntropyLoss(), sgd)
    model = make_model(network, architecture=functools.partial(own_net.Net, hidden=5))
    model.setFeaturesCol("assembled").setPredictionCol("guess")
    whole = PipelineModel([VectorAssembler(inputCols=NAMES, outputCol="assembled"), model])
    whole.save(str(tmp_path / "saved"))
    done = subprocess.run(
        [sys.executable, "load.py", "saved", "again"],
        env={**os.environ, "PYSPARK_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=170,
        cwd=tmp_path,
    )
    row = whole.transform(spark.createDataFrame([[float(i) for i in range(WIDTH)]], NAMES)).first()
    for words in (
        "refused the network uses own_net.Net, which is not known here",
        f"loaded NetworkModel {model.uid} guess False {CLASSES}",
        f"says {row.guess} {round(row.probability[0], 6)}",
    ):
        assert words in done.stdout, done.stdout + done.stderr[-3000:]
    monkeypatch.setattr(Network, "known", [own_net.Net])
    again = NetworkModel.load(str(tmp_path / "again"))  # what was loaded can be saved
    assert np.array_equal(weights(again.network), weights(network))


def test_save_refuses_what_is_there_and_overwrite_replaces_it(spark, tmp_path):
    path = f"file:{tmp_path}/model"
    make_model().save(path)
    with pytest.raises(StorageError, match=r"is there already: write\(\)\.overwrite"):
        make_model().save(path)
    other = make_model().setPredictionCol("other")
    other.write().overwrite().save(path)
    again = NetworkModel.load(path)
    assert (again.uid, again.getPredictionCol()) == (other.uid, "other")
    with pytest.raises(UnsupportedError, match="summary of a fit is not saved"):
        _ = again.summary


def test_a_path_without_a_scheme_is_what_spark_takes_it_for(spark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    name = f"hvdspark-{uuid.uuid4().hex}"
    folder = Path(spark._jvm.System.getProperty("user.dir")) / name
    try:
        make_model().save(name)
        assert {path.name for path in folder.iterdir()} == {"metadata", "network"}
        assert NetworkModel.load(name).numFeatures == make_model().numFeatures
        assert not any(tmp_path.iterdir())
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_an_estimator_is_saved_with_its_params_network_and_master(spark, tmp_path):
    estimator = make_estimator(maxIter=4, stepSize=0.25, featuresCols=NAMES)
    estimator.save(str(tmp_path / "estimator"))
    again = NetworkEstimator.load(str(tmp_path / "estimator"))
    assert again.uid == estimator.uid
    assert again.extractParamMap() == estimator.extractParamMap()
    assert again.training_master == estimator.training_master
    assert np.array_equal(weights(again.network), weights(estimator.network))
    assert again.network.optimizer.keywords == {"lr": 0.1, "momentum": 0.9}
    (metadata,) = (tmp_path / "estimator" / "metadata").glob("part-*")
    facts = json.loads(metadata.read_text())
    assert facts["class"] == "hvdspark.ml.NetworkEstimator"
    assert facts["hvdspark"]["master"]["type"] == "SharedTrainingMaster"


class Listener(TrainingListener):
    """Hears nothing."""


def test_what_cannot_be_written_down_is_refused_and_nothing_is_left(spark, tmp_path):
    path = tmp_path / "refused"
    network = make_network()
    network.optimizer = lambda parameters: torch.optim.SGD(parameters, 0.1)
    with pytest.raises(ModelError, match="the network's optimizer cannot be saved"):
        make_estimator(network).save(str(path))
    assert not path.exists()
    make_model(network).save(str(tmp_path / "model"))  # a model trains no more
    with pytest.raises(ConfigurationError, match="listeners"):
        make_estimator(master=make_master(listeners=(Listener(),))).save(str(path))
    with pytest.raises(ModelError, match="architecture"):
        make_model(architecture=lambda: None).save(str(path))
    assert not path.exists()


def test_a_folder_that_is_no_such_stage_or_damaged_is_named(spark, tmp_path):
    with pytest.raises(StorageError, match="there is no NetworkModel at"):
        NetworkModel.load(str(tmp_path / "nothing"))
    path = tmp_path / "model"
    make_model().save(str(path))
    with pytest.raises(StorageError, match=r"holds a hvdspark\.ml\.NetworkModel, not a hvdspark\.ml\.NetworkEstimator"):
        NetworkEstimator.load(str(path))
    weights_file = path / "network" / "model.safetensors"
    data = bytearray(weights_file.read_bytes())
    data[-1] ^= 1
    weights_file.write_bytes(data)
    with pytest.raises(StorageError, match=r"model\.safetensors"):
        NetworkModel.load(str(path))
