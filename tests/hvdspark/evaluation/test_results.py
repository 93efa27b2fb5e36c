"""Results: averages as in Deeplearning4j, printed, shown, and kept as JSON."""

import xml.etree.ElementTree as ET

import numpy as np
import pytest

from hvdspark import (
    ROC,
    BinaryMeasure,
    CalibrationMeasure,
    ClassMeasure,
    Evaluation,
    RegressionEvaluation,
    RegressionMeasure,
    RocBinaryMeasure,
    RocMeasure,
    RocMultiClassMeasure,
)
from hvdspark.errors import DataError, HvdsparkError
from hvdspark.evaluation import evaluate_batches

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 60)
OUTPUT = RNG.dirichlet([1, 1, 1], 60)
NAMES = ("<cat>", "dog", "bird")


def results():
    of_classes = [ClassMeasure(labels=NAMES, top_n=2), RocMultiClassMeasure(labels=NAMES, threshold_steps=0)]
    of_columns = [BinaryMeasure(columns=NAMES), RocBinaryMeasure(columns=NAMES), RegressionMeasure(columns=NAMES)]
    of_classes.append(CalibrationMeasure(labels=NAMES))
    yield from evaluate_batches(of_classes, [(OUTPUT, LABELS, None)])
    yield from evaluate_batches(of_columns, [(OUTPUT, np.eye(3)[LABELS], None)])
    yield from evaluate_batches([RocMeasure(), ClassMeasure()], [(OUTPUT[:, 0], LABELS == 0, None)])


@pytest.mark.parametrize("result", list(results()), ids=lambda r: type(r).__name__)
def test_json_and_html(result):
    again = type(result).from_json(result.to_json())
    assert again == result
    assert str(again) == str(result)
    page = result._repr_html_()
    ET.fromstring(page)  # well-formed: names are escaped
    assert "script" not in page
    assert "<cat>" not in page


def test_json_of_another_result():
    roc = evaluate_batches([RocMeasure()], [(OUTPUT[:, 0], LABELS == 0, None)])[0]
    for text in (roc.to_json(), "{", "[]", '{"kind": "Evaluation", "surprise": 1}', '{"kind": "Evaluation"}'):
        with pytest.raises(DataError, match="Evaluation"):
            Evaluation.from_json(text)


def test_results_that_differ_are_not_equal():
    found = [ROC(np.array([0.5]), np.array([k]), np.array([0]), 1, 1) for k in (0, 1)]
    assert found[0] != found[1]
    assert found[0] != "a text"


def test_two_classes_are_judged_by_class_1():
    matrix = np.array([[5, 1], [2, 12]])
    found = Evaluation(matrix)
    assert found.precision == pytest.approx(12 / 13)
    assert found.recall == pytest.approx(12 / 14)


def test_macro_averages_skip_what_is_not_defined():
    found = Evaluation(np.array([[1, 1, 0], [0, 1, 0], [0, 0, 0]]))
    assert found.recall == pytest.approx((0.5 + 1) / 2)
    assert found.per_class["2"]["recall"] == 0


def test_rates_of_false_answers():
    found = Evaluation(np.array([[5, 1], [2, 12]]))
    rates = found.false_positive_rate, found.false_negative_rate, found.false_alarm_rate, found.g_measure
    assert rates == pytest.approx((1 / 6, 2 / 14, (1 / 6 + 2 / 14) / 2, (12 / 13 * 12 / 14) ** 0.5))
    assert found.per_class["0"]["false_alarm_rate"] == pytest.approx((2 / 14 + 1 / 6) / 2)
    assert found.f_beta(2, "0") == found.f_beta(2, label=0) == pytest.approx(5 * 5 / (7 + 4 * 6))
    assert found.f_beta(1) == found.f1
    one_class = Evaluation(np.array([[3, 0, 0], [0, 0, 0], [0, 0, 0]]))
    assert (one_class.false_positive_rate, one_class.false_negative_rate, one_class.g_measure) == (0, 0, 1)
    for wrong, text in (((-1,), "beta: .* not -1"), ((1, "2"), "'2' is no class: there are 0, 1"), ((1, 2), "2 is no")):
        with pytest.raises(HvdsparkError, match=text):
            found.f_beta(*wrong)


def test_bins_hold_their_lower_edge():
    output, labels = np.array([0.0, 0.1, 0.3, 0.95, 1.0]), np.array([0, 1, 0, 1, 1])
    found = evaluate_batches([CalibrationMeasure(labels=("no", "yes"))], [(output, labels, None)])[0]
    curve = found.reliability_curve("yes")
    np.testing.assert_allclose(curve.mean_predicted, [0, 0.1, 0.3, 0.975])
    np.testing.assert_allclose(curve.fraction_positive, [0, 1, 0, 1])
    assert curve.counts.tolist() == [1, 1, 1, 2]
    assert found.expected_calibration_error == pytest.approx(
        (0.3 + 0.85) / 5
    )  # by bins: one row of 0.7; 3.85 of four, 3 right
    own, every = found.residual_plot("yes").counts, found.residual_plot().counts
    assert (own.sum(), every.sum()) == (3, 10)
    assert own[[0, 2, 45]].tolist() == [1, 1, 1]  # |1 - 1|, |1 - 0.95|, |1 - 0.1|
    histogram = found.probability_histogram(1)
    assert histogram.counts[[5, 47, 49]].tolist() == [1, 1, 1]
    assert histogram.edges[[0, 5, 50]].tolist() == [0, 0.1, 1]
    assert "reliability" in found._repr_html_()
    with pytest.raises(DataError, match="'maybe' is no class: there are no, yes"):
        found.reliability_curve("maybe")


def test_one_output_says_yes_from_a_half():
    found = evaluate_batches([ClassMeasure()], [(np.array([0.5, 0.4]), np.array([1, 1]), None)])[0]
    assert found.confusion_matrix.tolist() == [[0, 0], [1, 1]]


def test_a_threshold_decides():
    found = evaluate_batches([ClassMeasure(decision_threshold=0.9)], [(np.array([[0.2, 0.8]]), np.array([1]), None)])[0]
    assert found.accuracy == 0


def test_masked_steps_do_not_count():
    output, labels = RNG.random((5, 3, 4)), RNG.integers(0, 3, (5, 4))
    mask = RNG.integers(0, 2, (5, 4))
    found = evaluate_batches([ClassMeasure()], [(output, labels, mask)])[0]
    assert found.num_examples == mask.sum()
    assert found.accuracy == pytest.approx((output.argmax(axis=1) == labels)[mask == 1].mean())


def test_a_mask_of_examples_counts_all_their_steps():
    found = evaluate_batches([ClassMeasure()], [(RNG.random((2, 3, 4)), np.zeros((2, 4)), np.array([1, 0]))])[0]
    assert found.num_examples == 4


def test_a_constant_column_has_no_correlation():
    x = np.ones((4, 1))
    found = evaluate_batches([RegressionMeasure()], [(x, x, None)])[0]
    assert isinstance(found, RegressionEvaluation)
    assert found.mse[0] == 0
    assert np.isnan([found.r2[0], found.pearson[0], found.average("r2")]).all()
    with pytest.raises(DataError, match="pearson"):
        found.average("r3")


def test_a_class_that_never_occurs_has_no_area():
    found = evaluate_batches([RocMultiClassMeasure()], [(OUTPUT, LABELS % 2, None)])[0]
    assert np.isnan(found.rocs[2].auc)
    assert found.average_auc == pytest.approx(np.mean([roc.auc for roc in found.rocs[:2]]))
    assert "nan" in str(found)


def test_many_classes_are_shown_without_their_matrix():
    found = Evaluation(np.eye(25, dtype=np.int64))
    assert "svg" not in found._repr_html_()
    assert "confusion" not in str(found)
