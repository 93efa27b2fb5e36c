"""Each measure keeps the laws of `contracts.measure`."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics import MeanSquaredError, MetricCollection
from torchmetrics.classification import BinaryAUROC, MulticlassAccuracy, MulticlassF1Score

from contracts import measure as laws
from hvdspark import (
    BinaryMeasure,
    ClassMeasure,
    RegressionMeasure,
    RocBinaryMeasure,
    RocMeasure,
    RocMultiClassMeasure,
    TorchMeasure,
)


def classes(rng, n):
    return rng.dirichlet([1, 1, 1], n), rng.integers(0, 3, n), None


def class_sequences(rng, n):
    return rng.random((n, 3, 4)), rng.integers(0, 3, (n, 4)), rng.integers(0, 2, (n, 4))


def one_output(rng, n):
    return rng.random(n).round(2), rng.permutation(n) % 2, None


def values(rng, n):
    x = rng.normal(1e3, 1, (n, 2))
    return x, x + rng.normal(0, 1, (n, 2)), rng.random((n, 2)) < 0.8


def answers(rng, n):
    return rng.random((n, 3)), rng.integers(0, 2, (n, 3)), rng.random((n, 3)) < 0.8


CASES = {
    "classes": (ClassMeasure(top_n=2), classes),
    "sequences of classes": (ClassMeasure(), class_sequences),
    "regression": (RegressionMeasure(), values),
    "binary": (BinaryMeasure(), answers),
    "roc": (RocMeasure(), one_output),
    "roc exact": (RocMeasure(threshold_steps=0), one_output),
    "roc multi-class": (RocMultiClassMeasure(threshold_steps=200), class_sequences),
    "roc multi-class exact": (RocMultiClassMeasure(threshold_steps=0), classes),
    "roc binary": (RocBinaryMeasure(), answers),
    "roc binary exact": (RocBinaryMeasure(threshold_steps=0), answers),
    "torchmetrics sums": (TorchMeasure(MetricCollection([MulticlassAccuracy(3), MulticlassF1Score(3)])), classes),
    "torchmetrics lists": (TorchMeasure(BinaryAUROC()), one_output),
}
LAWS = (
    laws.merging_is_associative,
    laws.merging_is_commutative,
    laws.nothing_changes_nothing,
    laws.merging_changes_no_state,
)


@pytest.mark.parametrize("name", CASES)
@settings(max_examples=8, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**32), cuts=st.lists(st.integers(0, 40), min_size=1, max_size=5))
def test_laws(name, seed, cuts):
    measure, rows = CASES[name]
    for law in LAWS:
        law(measure, rows, seed)
    laws.parts_equal_one_pass(measure, rows, seed, cuts)


def test_a_large_mean_cancels_nothing():
    rng = np.random.default_rng(0)
    x = rng.normal(1e8, 1, (1000, 1))
    y = x + rng.normal(0, 1, (1000, 1))
    measure = RegressionMeasure()
    found = measure.compute(measure.merge(measure.observe(x[:300], y[:300]), measure.observe(x[300:], y[300:])))
    assert found.pearson[0] == pytest.approx(np.corrcoef(x[:, 0] - 1e8, y[:, 0] - 1e8)[0, 1], abs=1e-8)


def test_sums_of_torchmetrics_are_double():
    rng = np.random.default_rng(0)
    measure = TorchMeasure(MeanSquaredError())
    x, y = rng.random((2, 500)).astype(np.float32)
    found = measure.compute(measure.observe(x, y))["MeanSquaredError"]
    assert found == pytest.approx(((x - y).astype(np.float64) ** 2).mean(), rel=1e-6)
