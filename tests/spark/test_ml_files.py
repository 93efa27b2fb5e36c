"""Stages of pyspark.ml in searches, and as files: what is saved, loaded, and refused."""

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

from contracts.stages import NAMES, make_estimator, make_model, weights
from contracts.table import CLASSES, WIDTH, make_master, make_network
from hvdspark import Network, TrainingListener
from hvdspark.errors import ConfigurationError, ModelError, StorageError, UnsupportedError
from hvdspark.ml import NetworkEstimator, NetworkModel

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(300)]

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
        timeout=280,
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
