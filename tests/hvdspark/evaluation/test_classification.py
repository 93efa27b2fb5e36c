"""Evaluation against scikit-learn, whole and in parts."""

import itertools

import numpy as np
import pytest
from sklearn import metrics

from hvdspark import Evaluation
from hvdspark.errors import DataError
from hvdspark.evaluation import confusion_counts


def cases():
    for seed in range(50):
        rng = np.random.default_rng(seed)
        classes = int(rng.integers(2, 7))
        labels = rng.integers(0, classes, 200)
        predictions = np.where(rng.random(200) < 0.6, labels, rng.integers(0, classes, 200))
        yield classes, labels, predictions


def test_equal_to_scikit_learn_in_one_part_or_many():
    for classes, labels, predictions in cases():
        whole = Evaluation(confusion_counts(labels, predictions, classes))
        cuts = [0, 0, 13, 90, 200]  # an empty part, too
        parts = [
            Evaluation(confusion_counts(labels[a:b], predictions[a:b], classes)) for a, b in itertools.pairwise(cuts)
        ]
        merged = parts[0] + parts[1] + parts[2] + parts[3]
        np.testing.assert_array_equal(whole.confusion_matrix, merged.confusion_matrix)
        average = "binary" if classes == 2 else "macro"
        expected = {
            "accuracy": metrics.accuracy_score(labels, predictions),
            "precision": metrics.precision_score(labels, predictions, average=average),
            "recall": metrics.recall_score(labels, predictions, average=average),
            "f1": metrics.f1_score(labels, predictions, average=average),
            "mcc": metrics.matthews_corrcoef(labels, predictions),
        }
        for name, value in expected.items():
            assert getattr(merged, name) == pytest.approx(value, abs=1e-9), (name, classes)


def test_classes_that_do_not_occur_are_left_out_of_averages():
    found = Evaluation(confusion_counts(np.array([0, 0, 1]), np.array([0, 1, 1]), 4))
    assert found.recall == pytest.approx((0.5 + 1) / 2)
    assert found.precision == pytest.approx((1 + 0.5) / 2)


def test_nothing_at_all():
    found = Evaluation(np.zeros((3, 3), np.int64))
    assert (found.accuracy, found.precision, found.f1, found.mcc) == (0, 0, 0, 0)


def test_printed():
    text = str(Evaluation(np.array([[5, 1], [2, 12]])))
    assert "accuracy   0.8500" in text
    assert "   1  2 12" in text
    assert "confusion" not in str(Evaluation(np.eye(25, dtype=np.int64)))


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_that_are_no_class_index(label):
    with pytest.raises(DataError, match=r"0\.\.2"):
        confusion_counts(np.array([0, label]), np.array([0, 0]), 3)


def test_equal_counts_are_equal():
    one, other = Evaluation(np.eye(3, dtype=np.int64)), Evaluation(np.eye(3, dtype=np.int64))
    assert one == other
    assert one != one + other
