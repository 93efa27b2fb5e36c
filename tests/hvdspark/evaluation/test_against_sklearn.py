"""Fifty random cases of each figure against scikit-learn (binned ROC: torchmetrics), in one part and in many."""

import itertools

import numpy as np
import pytest
import torch
from sklearn import calibration, metrics
from torchmetrics.functional.classification import (
    binary_auroc,
    binary_average_precision,
    multiclass_calibration_error,
)

from hvdspark import (
    BinaryMeasure,
    CalibrationMeasure,
    ClassMeasure,
    RegressionMeasure,
    RocBinaryMeasure,
    RocMeasure,
    RocMultiClassMeasure,
)
from hvdspark.evaluation import collect, combine

CUTS = ([0, 200], [0, 0, 13, 90, 90, 200, 200])
CASES = [(seed, cuts) for seed in range(50) for cuts in CUTS]


def result(measure, output, labels, cuts):
    parts = [
        collect([measure], [(output[a:b], labels[a:b], None)] if b > a else []) for a, b in itertools.pairwise(cuts)
    ]
    return combine([measure], parts)[0]


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def scored(rng, classes):
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, 200 - classes)])
    output = rng.dirichlet(np.ones(classes), 200)
    output[np.arange(200), labels] += rng.random()
    return (output / output.sum(axis=1, keepdims=True)).astype(np.float32), labels


def test_classes():
    for seed, cuts in CASES:
        rng = np.random.default_rng(seed)
        output, labels = scored(rng, 3 + seed % 4)
        found = result(ClassMeasure(top_n=2), output, labels, cuts)
        predictions = output.argmax(axis=1)
        close(found.accuracy, metrics.accuracy_score(labels, predictions))
        close(found.top_n_accuracy, metrics.top_k_accuracy_score(labels, output, k=2))
        close(found.mcc, metrics.matthews_corrcoef(labels, predictions))
        expected = metrics.precision_recall_fscore_support(labels, predictions, zero_division=0)
        for name, each in zip(("precision", "recall", "f1", "examples"), expected, strict=True):
            close([values[name] for values in found.per_class.values()], each)


def test_weighted_means_and_false_answers():
    for seed in range(50):
        output, labels = scored(np.random.default_rng(seed), 3 + seed % 4)
        found, predictions, beta = (
            result(ClassMeasure(), output, labels, CUTS[1]),
            output.argmax(axis=1),
            0.5 + seed % 3,
        )
        precision, recall, each, _ = metrics.precision_recall_fscore_support(labels, predictions, beta=beta)
        close([found.f_beta(beta, label) for label in range(len(each))], each)
        close(found.f_beta(beta), each.mean())
        close(found.g_measure, np.sqrt(precision * recall).mean())
        tn, fp, fn, tp = metrics.multilabel_confusion_matrix(labels, predictions).reshape(-1, 4).T
        false_positives, false_negatives = fp / (fp + tn), fn / (fn + tp)
        close(found.false_positive_rate, false_positives.mean())
        close(found.false_negative_rate, false_negatives.mean())
        close(found.false_alarm_rate, (false_positives + false_negatives).mean() / 2)


def test_calibration():
    for seed in range(50):
        classes = 2 + seed % 4
        output, labels = scored(np.random.default_rng(seed), classes)
        found = result(CalibrationMeasure(reliability_bins=10), output, labels, CUTS[1])
        for label in range(classes):
            share, mean = calibration.calibration_curve(labels == label, output[:, label], n_bins=10)
            curve = found.reliability_curve(label)
            close(curve.fraction_positive, share)
            close(curve.mean_predicted, mean)
            own = output[labels == label, label].astype(float)
            close(found.probability_histogram(label).counts, np.histogram(own, 50, (0, 1))[0])
            close(found.residual_plot(label).counts, np.histogram(1 - own, 50, (0, 1))[0])
        residuals = np.abs(np.eye(classes)[labels] - output)
        close(found.residual_plot().counts, np.histogram(residuals, 50, (0, 1))[0])
        expected = multiclass_calibration_error(torch.from_numpy(output), torch.from_numpy(labels), classes, n_bins=10)
        close(found.expected_calibration_error, expected)


def test_regression():
    for seed, cuts in CASES:
        rng = np.random.default_rng(seed)
        output = rng.normal(rng.normal(0, 100), 2, (200, 3))
        labels = output + rng.normal(0, rng.random() * 3, (200, 3))
        found = result(RegressionMeasure(), output, labels, cuts)
        raw = {"multioutput": "raw_values"}
        close(found.mse, metrics.mean_squared_error(labels, output, **raw))
        close(found.rmse, metrics.root_mean_squared_error(labels, output, **raw))
        close(found.mae, metrics.mean_absolute_error(labels, output, **raw))
        close(found.r2, metrics.r2_score(labels, output, **raw))
        close(found.pearson, [np.corrcoef(output[:, i], labels[:, i])[0, 1] for i in range(3)])


def test_exact_roc():
    for seed, cuts in CASES:
        output, labels = scored(np.random.default_rng(seed), 2)
        output = output.round(2 + seed % 3)  # ties
        found = result(RocMeasure(threshold_steps=0), output[:, 1], labels, cuts)
        close(found.auc, metrics.roc_auc_score(labels, output[:, 1]))
        close(found.auc_precision_recall, metrics.average_precision_score(labels, output[:, 1]))
        fpr, tpr, _ = metrics.roc_curve(labels, output[:, 1], drop_intermediate=False)
        close(found.curve.false_positive_rate, fpr)
        close(found.curve.true_positive_rate, tpr)
        precision, recall, _ = metrics.precision_recall_curve(labels, output[:, 1])
        close(found.precision_recall_curve.recall[1:], recall[:-1][::-1])
        close(found.precision_recall_curve.precision[1:], precision[:-1][::-1])


@pytest.mark.parametrize("steps", [32, 200])
def test_binned_roc(steps):
    for seed, cuts in CASES:
        output, labels = scored(np.random.default_rng(seed), 2)
        found = result(RocMeasure(threshold_steps=steps), output[:, 1] * 0.999, labels, cuts)
        scores, target = torch.from_numpy(output[:, 1] * 0.999), torch.from_numpy(labels)
        close(found.auc, binary_auroc(scores, target, thresholds=steps + 1))
        close(found.auc_precision_recall, binary_average_precision(scores, target, thresholds=steps + 1))


def test_roc_of_each_class():
    for seed, cuts in CASES:
        classes = 3 + seed % 3
        output, labels = scored(np.random.default_rng(seed), classes)
        found = result(RocMultiClassMeasure(threshold_steps=0), output, labels, cuts)
        expected = metrics.roc_auc_score(np.eye(classes)[labels], output, average=None)
        close([roc.auc for roc in found.rocs], expected)
        close(found.average_auc, expected.mean())


def test_columns_of_answers():
    for seed, cuts in CASES:
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, (200, 3))
        output = (0.6 * rng.random((200, 3)) + 0.4 * labels * rng.random()).astype(np.float32)
        found = result(BinaryMeasure(), output, labels, cuts)
        yes = output >= 0.5
        expected = metrics.precision_recall_fscore_support(labels, yes, zero_division=0)
        for name, each in zip(("precision", "recall", "f1"), expected, strict=False):
            close(getattr(found, name), each)
        close(found.accuracy, (yes == labels).mean(axis=0))
        rocs = result(RocBinaryMeasure(threshold_steps=0), output, labels, cuts).rocs
        close([roc.auc for roc in rocs], metrics.roc_auc_score(labels, output, average=None))
