"""Calibration: whether what a network calls 70 % likely happens in 70 % of the cases."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hvdspark.errors import DataError
from hvdspark.evaluation.markup import Curve, html_table, svg_chart
from hvdspark.evaluation.measure import Measure, State
from hvdspark.evaluation.result import Result, class_number, ratio, text_table
from hvdspark.evaluation.rows import check_probabilities, class_rows

__all__ = ["CalibrationMeasure", "EvaluationCalibration", "Histogram", "ReliabilityCurve"]


class ReliabilityCurve(NamedTuple):
    """One point for each bin that has rows, by rising probability; `[k]` each."""

    mean_predicted: NDArray[np.float64]
    fraction_positive: NDArray[np.float64]
    counts: NDArray[np.int64]


class Histogram(NamedTuple):
    """Counts in bins of equal width from 0 to 1; `edges` is `[k + 1] float64`, `counts` `[k] int64`."""

    edges: NDArray[np.float64]
    counts: NDArray[np.int64]


class CalibrationMeasure(Measure):
    """Counts probabilities in bins, as Deeplearning4j does; its result is an `EvaluationCalibration`.

    A bin holds its lower edge; the last one its upper edge, too. The state is the same size whatever the rows.

    Parameters
    ----------
    labels
        Names of the classes, in order; () numbers them.
    reliability_bins
        Bins of the reliability curves and of the expected calibration error.
    histogram_bins
        Bins of the residual plots and the histograms of probabilities.
    output
        Which output of a network with several is measured.
    """

    labels: tuple[str, ...] = ()
    reliability_bins: int = Field(default=10, ge=1, le=100_000)
    histogram_bins: int = Field(default=50, ge=1, le=100_000)

    def observe(self, output: NDArray[Any], labels: NDArray[Any], mask: NDArray[Any] | None = None) -> State:
        """Return the counts of one batch; sums of probabilities are float64."""
        rows, actual = class_rows(output, labels, mask)
        check_probabilities(rows, "calibration")
        classes = rows.shape[1]
        if self.labels and len(self.labels) != classes:
            raise DataError(f"labels names {len(self.labels)} classes, but the network tells {classes} apart")
        is_actual = actual[:, None] == np.arange(classes)
        place = _bins(rows, self.reliability_bins)
        histograms = {
            "residuals": _bins(np.abs(is_actual - rows), self.histogram_bins),
            "probabilities": _bins(rows, self.histogram_bins),
        }
        predicted = rows.argmax(axis=1)
        best = np.arange(len(rows)), predicted
        confidence = {
            "confident_rows": np.ones(len(rows)),
            "confident_hits": predicted == actual,
            "confident_sums": rows[best],
        }
        return {
            "actual": np.bincount(actual, minlength=classes).astype(np.int64),
            "predicted": np.bincount(predicted, minlength=classes).astype(np.int64),
            "counts": _counted(place, np.ones(rows.shape, bool), self.reliability_bins),
            "positives": _counted(place, is_actual, self.reliability_bins),
            "sums": _summed(place, rows, self.reliability_bins),
            **{f"{name}_all": _counted(b, b >= 0, self.histogram_bins) for name, b in histograms.items()},
            **{f"{name}_own": _counted(b, is_actual, self.histogram_bins) for name, b in histograms.items()},
            **{
                name: _summed(place[best][:, None], np.asarray(values, np.float64)[:, None], self.reliability_bins)[0]
                for name, values in confidence.items()
            },
        }

    def compute(self, state: State) -> EvaluationCalibration:
        """Return the calibration over all rows."""
        self._check_observed(state)
        return EvaluationCalibration(labels=self.labels, **state)


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationCalibration(Result):
    """How far probabilities can be believed, as curves and histograms of each class.

    Parameters
    ----------
    actual, predicted : ndarray
        `[classes] int64` examples of each class, and how often it was the likeliest.
    counts, positives, sums : ndarray
        `[classes, bins]`: by the probability of each class, the rows (int64), those of the class among them (int64),
        and the sum of their probabilities (float64).
    residuals_all, probabilities_all : ndarray
        `[classes, bins] int64`: the distance of the probability from 1 or 0, and the probability of each class, over
        all rows.
    residuals_own, probabilities_own : ndarray
        The same over the rows of that class.
    confident_rows, confident_hits, confident_sums : ndarray
        `[bins] float64`: by the likeliest class's probability, the rows, the right ones, and the sum of it.
    labels : tuple of str
        Names of the classes; () numbers them.
    """

    actual: NDArray[np.int64]
    predicted: NDArray[np.int64]
    counts: NDArray[np.int64]
    positives: NDArray[np.int64]
    sums: NDArray[np.float64]
    residuals_all: NDArray[np.int64]
    residuals_own: NDArray[np.int64]
    probabilities_all: NDArray[np.int64]
    probabilities_own: NDArray[np.int64]
    confident_rows: NDArray[np.float64]
    confident_hits: NDArray[np.float64]
    confident_sums: NDArray[np.float64]
    labels: tuple[str, ...] = ()

    @property
    def num_examples(self) -> int:
        """How many examples were evaluated."""
        return int(self.actual.sum())

    @property
    def class_names(self) -> tuple[str, ...]:
        """The labels, or numbers as text."""
        return self.labels or tuple(map(str, range(len(self.actual))))

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance between the likeliest class's probability and its share of hits, by bin (Guo et al. 2017)."""
        return ratio(np.abs(self.confident_hits - self.confident_sums).sum(), self.num_examples)

    @property
    def class_calibration_error(self) -> NDArray[np.float64]:
        """`[classes] float64`: of each class, the mean distance between its probability and how often it is true."""
        return np.asarray(np.abs(self.positives - self.sums).sum(axis=1) / max(self.num_examples, 1))

    def reliability_curve(self, label: str | int) -> ReliabilityCurve:
        """Return how often a class is true against how likely it was called; a class by its name or number."""
        number = class_number(label, self.class_names)
        kept = self.counts[number] > 0
        rows = self.counts[number][kept]
        return ReliabilityCurve(self.sums[number][kept] / rows, self.positives[number][kept] / rows, rows)

    def residual_plot(self, label: str | int | None = None) -> Histogram:
        """Return the histogram of the distance of the probability from 1 or 0.

        Parameters
        ----------
        label
            A class by its name or number: its probability in its own rows. None: those of all classes in all rows.
        """
        return self._histogram(self.residuals_all, self.residuals_own, label)

    def probability_histogram(self, label: str | int | None = None) -> Histogram:
        """Return the histogram of probabilities; `label` as of `residual_plot`."""
        return self._histogram(self.probabilities_all, self.probabilities_own, label)

    def _histogram(self, every: NDArray[np.int64], own: NDArray[np.int64], label: str | int | None) -> Histogram:
        counts = every.sum(axis=0) if label is None else own[class_number(label, self.class_names)]
        return Histogram(_edges(len(counts)), counts)

    def rows(self) -> list[tuple[str, str]]:
        """Return the main figures as (name, value) rows."""
        errors = self.class_calibration_error
        return [
            ("examples", f"{self.num_examples:,}"),
            ("expected calibration error", f"{self.expected_calibration_error:.4f}"),
            ("average error of a class", f"{errors.mean():.4f}"),
        ]

    def table(self) -> list[list[str]]:
        """Return the table of classes, its header first."""
        found = [["class", "calibration error", "mean probability", "share", "examples", "predicted"]]
        total = max(self.num_examples, 1)
        for i, name in enumerate(self.class_names):
            shares = (self.class_calibration_error[i], self.sums[i].sum() / total, self.actual[i] / total)
            counts = f"{self.actual[i]:,}", f"{self.predicted[i]:,}"
            found.append([name, *(f"{share:.4f}" for share in shares), *counts])
        return found

    def __str__(self) -> str:
        return f"{text_table(self.table())}\n\n{text_table(self.rows())}"

    def _repr_html_(self) -> str:
        curves = []
        for i, error in enumerate(self.class_calibration_error):
            curve = self.reliability_curve(i)
            name = f"{self.class_names[i]}: error {error:.4f}"
            curves.append(Curve(name, curve.mean_predicted, curve.fraction_positive))
        axes = ("mean probability", "share that is true")
        charts = svg_chart(curves, "reliability", axes, diagonal=True)
        charts += svg_chart(
            [_steps("residuals", self.residual_plot()), _steps("probabilities", self.probability_histogram())],
            "histograms of all classes",
            ("value", "share of the fullest bin"),
        )
        return f"<div>{html_table(self.table(), header=True)}{html_table(self.rows())}{charts}</div>"


def _steps(name: str, histogram: Histogram) -> Curve:
    heights = np.repeat(histogram.counts / max(histogram.counts.max(), 1), 2)
    return Curve(name, np.repeat(histogram.edges, 2), np.concatenate([[0.0], heights, [0.0]]))


def _edges(bins: int) -> NDArray[np.float64]:
    return np.arange(bins + 1) / bins


def _bins(values: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    """Return the bin of each value in 0..1, in the same shape."""
    return np.asarray(np.searchsorted(_edges(bins)[:-1], values, side="right") - 1, np.int64)


def _counted(place: NDArray[np.int64], chosen: NDArray[np.bool_], bins: int) -> NDArray[np.int64]:
    """Count the chosen `[n, columns]` by bin: `[columns, bins] int64`."""
    columns = place.shape[1]
    flat = (place + np.arange(columns) * bins)[chosen]
    return np.bincount(flat, minlength=columns * bins).reshape(columns, bins).astype(np.int64)


def _summed(place: NDArray[np.int64], values: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """Sum the values `[n, columns]` by bin: `[columns, bins] float64`."""
    columns = place.shape[1]
    flat = (place + np.arange(columns) * bins).reshape(-1)
    return np.bincount(flat, values.reshape(-1), minlength=columns * bins).reshape(columns, bins).astype(np.float64)
