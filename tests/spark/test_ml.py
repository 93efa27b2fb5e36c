"""NetworkEstimator and NetworkModel among the stages, searches and evaluators of pyspark.ml."""

import numpy as np
import pytest
import torch

from contracts.table import CLASSES, WIDTH, make_master, make_network
from hvdspark.ml import NetworkEstimator, NetworkModel

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(120)]


def make_estimator(network=None, master=None, **params):
    return NetworkEstimator(network=network or make_network(), training_master=master or make_master(), **params)


def weights(network):
    return torch.nn.utils.parameters_to_vector(network.module.parameters()).detach().numpy().copy()


@pytest.fixture(scope="module")
def fitted(table):
    estimator = make_estimator(maxIter=3, seed=5)
    return estimator, estimator.fit(table)


def test_a_fit_trains_a_copy_and_keeps_the_uid(fitted):
    estimator, model = fitted
    assert np.array_equal(weights(estimator.network), weights(make_network()))
    assert not np.array_equal(weights(model.network), weights(estimator.network))
    assert model.uid == estimator.uid
    assert (model.numFeatures, model.numClasses) == (WIDTH, CLASSES)
    assert len(model.summary.history) == 3


def test_transform(fitted, table):
    found = fitted[1].transform(table)
    assert found.columns == [*table.columns, "prediction", "probability"]
    row = found.first()
    assert row.prediction == row.probability.argmax()


def test_save_and_load(fitted, table, tmp_path):
    estimator, model = fitted
    model.save(str(tmp_path / "model"))
    again = NetworkModel.load(str(tmp_path / "model"))
    assert np.array_equal(weights(again.network), weights(model.network))
    assert again.uid == model.uid
    estimator.save(str(tmp_path / "estimator"))
    other = NetworkEstimator.load(str(tmp_path / "estimator"))
    assert other.uid == estimator.uid
    assert other.extractParamMap() == estimator.extractParamMap()
    assert other.training_master == estimator.training_master
