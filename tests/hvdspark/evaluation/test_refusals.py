"""What cannot be measured is refused, by name, and where possible before any row is read."""

import numpy as np
import pytest
from torchmetrics import (
    MaxMetric,
    MeanMetric,
    MeanSquaredError,
    Metric,
    MetricCollection,
    MinMaxMetric,
    PearsonCorrCoef,
)
from torchmetrics.regression import ConcordanceCorrCoef, KendallRankCorrCoef

from hvdspark import (
    BinaryMeasure,
    CalibrationMeasure,
    ClassMeasure,
    RegressionMeasure,
    RocBinaryMeasure,
    RocMeasure,
    TorchMeasure,
)
from hvdspark import RocMultiClassMeasure as RocMultiClass
from hvdspark.errors import ConfigurationError, DataError, MessageError, NonFiniteError, UnsupportedError
from hvdspark.evaluation import collect, combine, evaluate_batches, for_each_output

TWO = np.array([[0.2, 0.8], [0.6, 0.4]])
THREE = np.array([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]])


@pytest.mark.parametrize(
    "metric", [PearsonCorrCoef(), ConcordanceCorrCoef(), KendallRankCorrCoef(), MaxMetric(), MinMaxMetric(MeanMetric())]
)
def test_metrics_that_do_not_merge(metric):
    with pytest.raises(UnsupportedError, match=type(metric).__name__):
        TorchMeasure(metric)


def test_all_of_a_collection_that_do_not_merge_are_named_at_once():
    collection = MetricCollection([MeanSquaredError(), PearsonCorrCoef(), ConcordanceCorrCoef()])
    with pytest.raises(UnsupportedError, match=r"PearsonCorrCoef.*ConcordanceCorrCoef") as refused:
        TorchMeasure(collection)
    assert "MeanSquaredError" not in str(refused.value)


class OneState(Metric):
    full_state_update = False

    def __init__(self, default, reduction):
        super().__init__()
        self.add_state("kept", default, dist_reduce_fx=reduction)

    def update(self, output, labels):
        self.kept = self.kept + len(labels)

    def compute(self):
        return self.kept


@pytest.mark.parametrize(
    ("start", "reduction", "why"),
    [
        (0.0, "mean", "kept is reduced by dim_zero_mean"),
        (0.0, None, "kept is reduced by None"),
        (0.0, lambda x: x.prod(0), "kept is reduced by <lambda>"),
        (1.0, "sum", "does not start from nothing"),
        (0.0, "cat", "does not start from nothing"),
    ],
)
def test_states_that_do_not_merge(start, reduction, why):
    import torch

    with pytest.raises(UnsupportedError, match=f"OneState.*{why}"):
        TorchMeasure(OneState(torch.tensor(start), reduction))
    assert TorchMeasure(OneState(torch.tensor(0.0), "sum"))


def test_what_is_no_metric():
    with pytest.raises(UnsupportedError, match="not str"):
        TorchMeasure("accuracy")


@pytest.mark.parametrize(
    ("measure", "output", "labels", "mask", "message"),
    [
        (ClassMeasure(), TWO, [0, 2], None, r"0\.\.1"),
        (ClassMeasure(), TWO, [0, 0.5], None, "0.5"),
        (ClassMeasure(), TWO, [0, 1, 1], None, r"\(3,\)"),
        (ClassMeasure(labels=("a",)), TWO, [0, 1], None, "names 1 classes"),
        (ClassMeasure(decision_threshold=0.3), THREE, [0, 1], None, "between two classes"),
        (ClassMeasure(), TWO, [0, 1], [1, 0.5], "not weighted"),
        (ClassMeasure(), TWO, [0, 1], [1, 0, 1], "mask of shape"),
        (RocMeasure(), THREE, [0, 1], None, "RocMultiClassMeasure"),
        (RocMeasure(), TWO * 3, [0, 1], None, "probabilities"),
        (RocMeasure(threshold_steps=0, max_scores=1), TWO, [0, 1], None, "threshold_steps=200"),
        (CalibrationMeasure(), TWO * 3, [0, 1], None, "calibration needs probabilities, .* 2.4"),
        (CalibrationMeasure(labels=("a",)), TWO, [0, 1], None, "names 1 classes"),
        (BinaryMeasure(), TWO, [[0, 1], [2, 0]], None, "2.0"),
        (BinaryMeasure(columns=("a",)), TWO, [[0, 1], [1, 0]], None, "names 1 columns"),
        (RocBinaryMeasure(), TWO, [0, 1], None, "nothing is broadcast"),
        (RegressionMeasure(), TWO, [[0, 1]], None, "nothing is broadcast"),
        (RegressionMeasure(columns=("a",)), TWO, TWO, None, "names 1 columns"),
        (TorchMeasure(MeanSquaredError()), TWO, [1.0, 2.0], None, "MeanSquaredError"),
        (TorchMeasure(MeanSquaredError()), TWO, TWO, [1, 2], "not weighted"),
    ],
)
def test_rows_that_cannot_be_measured(measure, output, labels, mask, message):
    with pytest.raises(DataError, match=message):
        evaluate_batches([measure], [(output, np.asarray(labels), mask)])


@pytest.mark.parametrize("measure", [ClassMeasure(), RocMeasure(), RegressionMeasure()])
def test_no_numbers(measure):
    labels = TWO if isinstance(measure, RegressionMeasure) else np.array([0, 1])
    with pytest.raises(NonFiniteError, match="nan"):
        evaluate_batches([measure], [(TWO * np.nan, labels, None)])


def test_exact_scores_are_bounded_over_parts_too():
    measure = RocMeasure(threshold_steps=0, max_scores=3)
    parts = [collect([measure], [(TWO, np.array([0, 1]), None)]) for _ in range(2)]
    with pytest.raises(DataError, match="max_scores=3"):
        combine([measure], parts)


def test_parts_with_other_columns():
    for measure in (ClassMeasure(), RocMultiClass(), RocMultiClass(threshold_steps=0)):
        parts = [collect([measure], [(output, np.array([0, 1]), None)]) for output in (TWO, THREE)]
        with pytest.raises(DataError, match="disagree"):
            combine([measure], parts)


def test_nothing_to_measure():
    with pytest.raises(DataError, match="no row"):
        combine([ClassMeasure()], [collect([ClassMeasure()], [])])
    with pytest.raises(ConfigurationError, match="no measure"):
        collect([], [])


def test_bytes_of_something_else():
    measure = ClassMeasure()
    with pytest.raises(MessageError, match="not a part"):
        combine([measure], [b"\x80\x04K\x01."])
    part = collect([measure, measure], [(TWO, np.array([0, 1]), None)])
    with pytest.raises(MessageError, match="another evaluation"):
        combine([measure], [part])


def test_an_output_that_is_not_there():
    with pytest.raises(ConfigurationError, match="output=1"):
        evaluate_batches([ClassMeasure(output=1)], [(TWO, np.array([0, 1]), None)])


def test_each_output_of_a_network():
    batch = ([TWO, THREE], [np.array([1, 0]), np.array([1, 2])], [None, np.array([1, 0])])
    one, other = evaluate_batches(for_each_output(ClassMeasure(), 2), [batch])
    assert (one.accuracy, one.num_examples) == (1, 2)
    assert (other.confusion_matrix.shape, other.num_examples) == ((3, 3), 1)
