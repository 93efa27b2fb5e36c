"""The receiver operating characteristic of one yes-or-no question, and its curves."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvdspark.evaluation.markup import Curve, html_table, svg_chart
from hvdspark.evaluation.result import Result

__all__ = ["ROC", "PrecisionRecallCurve", "RocCurve", "charts"]


class RocCurve(NamedTuple):
    """Points from (0, 0) to (1, 1); `[k] float64` each. The first threshold is infinity: nothing is called positive."""

    false_positive_rate: NDArray[np.float64]
    true_positive_rate: NDArray[np.float64]
    thresholds: NDArray[np.float64]


class PrecisionRecallCurve(NamedTuple):
    """Points by falling threshold, from recall 0; `[k] float64` each."""

    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    thresholds: NDArray[np.float64]


@dataclasses.dataclass(frozen=True, eq=False)
class ROC(Result):
    """How well a probability ranks positive rows above negative ones, over all thresholds.

    Parameters
    ----------
    thresholds : ndarray
        `[k] float64`, falling.
    true_positives, false_positives : ndarray
        `[k] int64` positive and negative rows whose probability is at least the threshold.
    positives, negatives : int
        How many rows there are of each.
    name : str
        Of the class or column; may be empty.
    """

    thresholds: NDArray[np.float64]
    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    positives: int
    negatives: int
    name: str = ""

    @property
    def curve(self) -> RocCurve:
        """False positive rate against true positive rate; NaN where there is no row of the kind."""
        rates = (
            _from_zero(self.false_positives, self.negatives),
            _from_zero(self.true_positives, self.positives),
        )
        return RocCurve(*rates, np.concatenate([[np.inf], self.thresholds]))

    @property
    def precision_recall_curve(self) -> PrecisionRecallCurve:
        """Recall against precision (1 where nothing is called positive)."""
        called = self.true_positives + self.false_positives
        precision = np.where(called > 0, self.true_positives / np.maximum(called, 1), 1.0)
        recall = _from_zero(self.true_positives, self.positives)
        first = precision[:1] if called[:1].any() else np.ones(1)
        return PrecisionRecallCurve(recall, np.concatenate([first, precision]), np.append(np.inf, self.thresholds))

    @property
    def auc(self) -> float:
        """Area under the curve: the chance that a positive row is ranked above a negative one (ties count half)."""
        curve = self.curve
        return float(np.trapezoid(curve.true_positive_rate, curve.false_positive_rate))

    @property
    def auc_precision_recall(self) -> float:
        """Average precision: the area in steps, which flatters less than straight lines between points."""
        curve = self.precision_recall_curve
        return float((np.diff(curve.recall) * curve.precision[1:]).sum())

    def rows(self) -> list[tuple[str, str]]:
        """Return the main figures as (name, value) rows."""
        counts = [("positives", f"{self.positives:,}"), ("negatives", f"{self.negatives:,}")]
        areas = [("AUC", f"{self.auc:.4f}"), ("AUC precision-recall", f"{self.auc_precision_recall:.4f}")]
        return [*counts, *areas, ("thresholds", f"{len(self.thresholds):,}")]

    def _repr_html_(self) -> str:
        return f"<div>{html_table(self.rows())}{charts([self])}</div>"


def charts(found: list[ROC]) -> str:
    """Return both charts of some ROCs; those without positive or negative rows have no curve."""
    defined = [roc for roc in found if roc.positives and roc.negatives]
    first, second = [], []
    for roc in defined:
        rates, precision = roc.curve, roc.precision_recall_curve
        label = f"{roc.name}: " if roc.name else ""
        first.append(Curve(f"{label}AUC {roc.auc:.4f}", rates.false_positive_rate, rates.true_positive_rate))
        area = f"{label}area {roc.auc_precision_recall:.4f}"
        second.append(Curve(area, precision.recall, precision.precision))
    axes = ("false positive rate", "true positive rate")
    return svg_chart(first, "ROC", axes, diagonal=True) + svg_chart(
        second, "precision and recall", ("recall", "precision")
    )


def _from_zero(counts: NDArray[np.int64], total: int) -> NDArray[np.float64]:
    shares = counts / total if total else np.full(len(counts), np.nan)
    return np.concatenate([[0.0 if total else np.nan], shares])
