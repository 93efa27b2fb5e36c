"""Evaluating each output of a graph where they differ in what they say: yes or no, two classes, more of them."""

import functools

import numpy as np
import pytest
import torch
from sklearn import metrics

from hvdspark import JointLoss, MultiDataSet, Network, SparkComputationGraph
from hvdspark.errors import DataError

pytestmark = [pytest.mark.spark, pytest.mark.timeout(300)]

SGD = functools.partial(torch.optim.SGD, lr=0.1)


class Answers(torch.nn.Module):
    """Two outputs of yes or no: one question, and two of them."""

    def forward(self, x):
        return x[:, :1], x[:, 1:]


def test_outputs_of_yes_and_no(spark):
    x = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    y = (x + np.random.default_rng(1).normal(size=x.shape) > 0).astype(np.float32)
    network = Network(Answers(), JointLoss([torch.nn.BCEWithLogitsLoss(), torch.nn.BCEWithLogitsLoss()]), SGD)
    model = SparkComputationGraph(spark, network)  # outputs without names are counted
    data = spark.sparkContext.parallelize([MultiDataSet([x], [y[:, 0], y[:, 1:]])], 1)
    roc = model.evaluate_roc(data, output="0", threshold_steps=0)
    assert roc.auc == pytest.approx(metrics.roc_auc_score(y[:, 0], x[:, 0]), abs=1e-6)
    with pytest.raises(DataError, match="output 1 says yes or no to 2 questions a row, and evaluate counts one"):
        model.evaluate(data)


class Kinds(torch.nn.Module):
    """Two classes, three classes, and yes or no."""

    def forward(self, x):
        return x[:, :2], x[:, 2:5], x[:, 5:]


def test_outputs_with_more_classes_have_no_roc_of_class_one(spark):
    x = np.random.default_rng(0).normal(size=(40, 6)).astype(np.float32)
    y = [x[:, :2].argmax(1), x[:, 2:5].argmax(1), (x[:, 5] > 0.3).astype(np.float32)]
    y[0][:9] = 1 - y[0][:9]
    losses = [torch.nn.CrossEntropyLoss(), torch.nn.CrossEntropyLoss(), torch.nn.BCEWithLogitsLoss()]
    model = SparkComputationGraph(spark, Network(Kinds(), JointLoss(losses), SGD))
    data = spark.sparkContext.parallelize([MultiDataSet([x], y)], 1)
    found = model.evaluate_roc(data, threshold_steps=0)
    assert list(found) == ["0", "2"]
    assert found["0"].auc == pytest.approx(metrics.roc_auc_score(y[0], x[:, 1] - x[:, 0]), abs=1e-6)
    assert found["0"].auc < 1
    assert found["0"] == model.evaluate_roc(data, output="0", threshold_steps=0)
    assert found["2"] == model.evaluate_roc(data, output="2", threshold_steps=0)
    with pytest.raises(DataError, match="tells two classes apart, not 3"):
        model.evaluate_roc(data, output="1")
