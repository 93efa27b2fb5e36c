"""Each measure keeps the laws of `contracts.measure`."""

import cloudpickle
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics import MeanSquaredError, MetricCollection
from torchmetrics.classification import BinaryAUROC, MulticlassAccuracy, MulticlassF1Score

from contracts import measure as laws
from hvdspark import (
    BinaryMeasure,
    CalibrationMeasure,
    ClassMeasure,
    RegressionMeasure,
    RocBinaryMeasure,
    RocMeasure,
    RocMultiClassMeasure,
    TorchMeasure,
)
from hvdspark.evaluation import collect, combine


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
    "calibration": (CalibrationMeasure(reliability_bins=7), classes),
    "calibration of sequences": (CalibrationMeasure(), class_sequences),
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
    measure = TorchMeasure(MeanSquaredError())
    zero = np.zeros(1, np.float32)
    states = [measure.observe(zero + error, zero) for error in (np.float32(4096), np.float32(1))]
    found = measure.compute(measure.merge(*states))["MeanSquaredError"]
    assert found == (2**24 + 1) / 2  # float32 does not hold 2**24 + 1


def test_masked_steps_do_not_reach_torchmetrics():
    output, labels, mask = class_sequences(np.random.default_rng(0), 20)
    measure = TorchMeasure(MulticlassAccuracy(3, average="micro"))
    found = measure.compute(measure.observe(output, labels, mask))["MulticlassAccuracy"]
    assert found == pytest.approx((output.argmax(axis=1) == labels)[mask == 1].mean())


@pytest.mark.parametrize("name", CASES)
def test_measures_travel_to_workers(name):
    measure, rows = CASES[name]
    batch = rows(np.random.default_rng(0), 20)
    there = cloudpickle.loads(cloudpickle.dumps(measure))
    laws.assert_same(combine([measure], [collect([there], [batch])]), combine([measure], [collect([measure], [batch])]))
