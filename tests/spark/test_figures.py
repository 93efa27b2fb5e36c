"""All figures of one random case, on Spark in one part, in several and with empty ones, against scikit-learn."""

import functools

import numpy as np
import pytest
import torch
from sklearn import calibration, metrics

from contracts.table import CLASSES, make_network, make_rows
from hvdspark import (
    BinaryMeasure,
    CalibrationMeasure,
    ClassMeasure,
    RegressionMeasure,
    RocMeasure,
    RocMultiClassMeasure,
    SparkMultiLayer,
)

pytestmark = [pytest.mark.spark, pytest.mark.timeout(300)]

close = functools.partial(np.testing.assert_allclose, rtol=1e-6, atol=1e-6)


@pytest.fixture(params=["one partition", "several", "empty ones"])
def rows(request, table):
    """The table, its features and labels."""
    _, x, y = zip(*make_rows(), strict=True)
    parts = {
        "one partition": lambda: table.coalesce(1),
        "several": lambda: table,
        "empty ones": lambda: table.repartition(8, "label"),
    }
    return parts[request.param](), np.array(x, np.float32), np.array(y)


def said(network, x):
    with torch.no_grad():
        return network.readable(network.module(torch.from_numpy(x))).numpy()


def test_figures_of_classes(spark, rows):
    data, x, y = rows
    network = make_network()
    output = said(network, x)
    predicted = output.argmax(axis=1)
    measures = ClassMeasure(top_n=2), RocMultiClassMeasure(threshold_steps=0), CalibrationMeasure()
    found, rocs, calibrated = SparkMultiLayer(spark, network).do_evaluation(data, *measures)

    np.testing.assert_array_equal(found.confusion_matrix, metrics.confusion_matrix(y, predicted))
    close(found.accuracy, metrics.accuracy_score(y, predicted))
    close(found.top_n_accuracy, metrics.top_k_accuracy_score(y, output, k=2))
    close(found.mcc, metrics.matthews_corrcoef(y, predicted))
    each = metrics.precision_recall_fscore_support(y, predicted)
    for name, expected in zip(("precision", "recall", "f1", "examples"), each, strict=True):
        close([values[name] for values in found.per_class.values()], expected)
    close((found.precision, found.recall, found.f1), [values.mean() for values in each[:3]])
    close(found.f_beta(2), metrics.fbeta_score(y, predicted, beta=2, average="macro"))

    for label in range(CLASSES):
        scores, roc, curve = output[:, label], rocs.rocs[label], calibrated.reliability_curve(label)
        close(roc.auc, metrics.roc_auc_score(y == label, scores))
        close(roc.auc_precision_recall, metrics.average_precision_score(y == label, scores))
        share, mean = calibration.calibration_curve(y == label, scores, n_bins=10)
        close(curve.fraction_positive, share)
        close(curve.mean_predicted, mean)


def test_figures_of_values(spark, rows):
    from pyspark.sql import functions as f

    data, x, _ = rows
    network = make_network(torch.nn.MSELoss(), outputs=2)
    columns = f.col("features")[0] * 3 - f.col("features")[1], f.col("features")[2]
    data = data.withColumn("label", f.array(*(column.cast("float") for column in columns)))
    truth, output = np.stack([x[:, 0] * 3 - x[:, 1], x[:, 2]], axis=1), said(network, x)
    (found,) = SparkMultiLayer(spark, network).do_evaluation(data, RegressionMeasure())
    raw = {"multioutput": "raw_values"}
    close(found.mse, metrics.mean_squared_error(truth, output, **raw))
    close(found.rmse, metrics.root_mean_squared_error(truth, output, **raw))
    close(found.mae, metrics.mean_absolute_error(truth, output, **raw))
    close(found.r2, metrics.r2_score(truth, output, **raw))
    close(found.pearson, [np.corrcoef(output[:, i], truth[:, i])[0, 1] for i in range(2)])


def test_figures_of_one_question(spark, rows):
    data, x, y = rows
    network = make_network(torch.nn.BCEWithLogitsLoss(), outputs=1)
    data = data.withColumn("label", (data.label == 1).cast("int"))
    output = said(network, x)[:, 0]
    roc, answers = SparkMultiLayer(spark, network).do_evaluation(data, RocMeasure(threshold_steps=0), BinaryMeasure())
    close(roc.auc, metrics.roc_auc_score(y == 1, output))
    close(roc.auc_precision_recall, metrics.average_precision_score(y == 1, output))
    false_positives, true_positives, _ = metrics.roc_curve(y == 1, output, drop_intermediate=False)
    close(roc.curve.false_positive_rate, false_positives)
    close(roc.curve.true_positive_rate, true_positives)
    each = metrics.precision_recall_fscore_support(y == 1, output >= 0.5, average="binary")
    close([answers.precision[0], answers.recall[0], answers.f1[0]], each[:3])
