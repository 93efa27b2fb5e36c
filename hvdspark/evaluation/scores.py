"""ROC measures: scores counted in bins, whose state is small, or kept one by one, which is exact."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hvdspark.errors import DataError
from hvdspark.evaluation.markup import html_table
from hvdspark.evaluation.measure import Measure, State
from hvdspark.evaluation.result import Result, text_table
from hvdspark.evaluation.roc import ROC, charts
from hvdspark.evaluation.rows import check_probabilities, class_rows, column_rows

__all__ = ["ROCBinary", "ROCMultiClass", "RocBinaryMeasure", "RocMeasure", "RocMultiClassMeasure", "ScoreMeasure"]

_NEGATIVE, _POSITIVE, _MASKED = 0, 1, 2


class ScoreMeasure(Measure):
    """The base of ROC measures.

    Parameters
    ----------
    threshold_steps
        Thresholds 0, 1/k, ..., 1: 32 as in Deeplearning4j; 200 for smoother curves; 0 keeps every score and is exact.
    max_scores
        With `threshold_steps=0`: more scores (rows times columns) are refused, since the driver must hold them all,
        in 9 bytes each.
    output
        Which output of a network with several is measured.
    """

    threshold_steps: int = Field(default=32, ge=0, le=1_000_000)
    max_scores: int = Field(default=20_000_000, ge=1)

    def observe(self, output: NDArray[Any], labels: NDArray[Any], mask: NDArray[Any] | None = None) -> State:
        """Return the scores of one batch: counts by bin, `[columns, k + 1] int64`, or each, `[n, columns]`."""
        scores, positive, valid = self._questions(output, labels, mask)
        check_probabilities(scores[valid], "ROC")
        if self.threshold_steps == 0:
            kinds = np.where(valid, np.where(positive, _POSITIVE, _NEGATIVE), _MASKED).astype(np.uint8)
            return self._bounded({"scores": scores, "kinds": kinds})
        columns, bins = scores.shape[1], self.threshold_steps + 1
        place = np.searchsorted(self._thresholds(), np.where(valid, scores, 0.0), side="right") - 1
        place += np.arange(columns) * bins
        counts = [
            np.bincount(place[valid & chosen], minlength=columns * bins).reshape(columns, bins).astype(np.int64)
            for chosen in (positive, ~positive)
        ]
        return {"positives": counts[0], "negatives": counts[1]}

    @abc.abstractmethod
    def _questions(
        self, output: NDArray[Any], labels: NDArray[Any], mask: NDArray[Any] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        """Return scores, which are positive, and which count, `[n, questions]` each."""

    def _merge(self, one: State, other: State) -> State:
        if self.threshold_steps == 0:
            return self._bounded({name: np.concatenate([one[name], other[name]]) for name in one})
        return {name: one[name] + other[name] for name in one}

    def _check_alike(self, one: State, other: State) -> None:
        known = next(iter(one.values())).shape, next(iter(other.values())).shape
        if (known[0][1] != known[1][1]) or (self.threshold_steps and known[0] != known[1]):
            raise DataError(
                f"{type(self).__name__}: parts disagree about the columns: shapes {known[0]} and {known[1]}"
            )

    def _bounded(self, state: State) -> State:
        if state["scores"].size > self.max_scores:
            raise DataError(
                f"an exact ROC keeps every score, and these are more than max_scores={self.max_scores:,}: "
                "give threshold_steps=200, or a larger max_scores"
            )
        return state

    def _thresholds(self) -> NDArray[np.float64]:
        return np.arange(self.threshold_steps + 1) / self.threshold_steps

    def _rocs(self, state: State, names: Sequence[str]) -> tuple[ROC, ...]:
        self._check_observed(state)
        columns = next(iter(state.values())).shape[0 if self.threshold_steps else 1]
        if names and len(names) != columns:
            raise DataError(f"{len(names)} names are given ({', '.join(names)}), but the network has {columns} columns")
        return tuple(self._roc(state, i, names[i] if names else str(i)) for i in range(columns))

    def _roc(self, state: State, column: int, name: str) -> ROC:
        if self.threshold_steps:
            thresholds = self._thresholds()[::-1]
            counts = [np.cumsum(state[kind][column][::-1]) for kind in ("positives", "negatives")]
        else:
            kept = state["kinds"][:, column] != _MASKED
            scores, positive = state["scores"][kept, column], state["kinds"][kept, column] == _POSITIVE
            rising, place = np.unique(scores, return_inverse=True)  # equal scores are one point
            thresholds = rising[::-1]
            counts = [np.cumsum(np.bincount(place[c], minlength=len(rising))[::-1]) for c in (positive, ~positive)]
        totals = [int(c[-1]) if c.size else 0 for c in counts]
        return ROC(thresholds.copy(), counts[0], counts[1], totals[0], totals[1], name)


class RocMeasure(ScoreMeasure):
    """ROC of class 1, for one output or two classes; its result is a `ROC`. Options: see `ScoreMeasure`."""

    def _questions(
        self, output: NDArray[Any], labels: NDArray[Any], mask: NDArray[Any] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        rows, actual = class_rows(output, labels, mask)
        if rows.shape[1] != 2:
            raise DataError(f"RocMeasure tells two classes apart, not {rows.shape[1]}: take RocMultiClassMeasure")
        return rows[:, 1:], actual[:, None] == 1, np.ones((len(rows), 1), bool)

    def compute(self, state: State) -> ROC:
        """Return the ROC of all rows."""
        return dataclasses.replace(self._rocs(state, ())[0], name="")


class RocMultiClassMeasure(ScoreMeasure):
    """ROC of each class against all others; its result is a `ROCMultiClass`. More options: see `ScoreMeasure`.

    Parameters
    ----------
    labels
        Names of the classes, in order; () numbers them.
    """

    labels: tuple[str, ...] = ()

    def _questions(
        self, output: NDArray[Any], labels: NDArray[Any], mask: NDArray[Any] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        rows, actual = class_rows(output, labels, mask)
        return rows, actual[:, None] == np.arange(rows.shape[1]), np.ones(rows.shape, bool)

    def compute(self, state: State) -> ROCMultiClass:
        """Return the ROCs of all rows."""
        return ROCMultiClass(self._rocs(state, self.labels))


class RocBinaryMeasure(ScoreMeasure):
    """ROC of each column, for outputs that answer several yes-or-no questions; its result is a `ROCBinary`.

    More options: see `ScoreMeasure`. A mask may be of single columns.

    Parameters
    ----------
    columns
        Their names, in order; () numbers them.
    """

    columns: tuple[str, ...] = ()

    def _questions(
        self, output: NDArray[Any], labels: NDArray[Any], mask: NDArray[Any] | None
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        rows, truth, valid = column_rows(output, labels, mask)
        check_yes_or_no(truth, valid)
        return rows, truth == 1, valid

    def compute(self, state: State) -> ROCBinary:
        """Return the ROCs of all rows."""
        return ROCBinary(self._rocs(state, self.columns))


@dataclasses.dataclass(frozen=True, eq=False)
class _Rocs(Result):
    """Several ROCs.

    Parameters
    ----------
    rocs : tuple of ROC
        In the order of classes or columns.
    """

    rocs: tuple[ROC, ...]

    def __post_init__(self) -> None:
        # From JSON they come as mappings.
        rocs = tuple(roc if isinstance(roc, ROC) else ROC(**roc) for roc in self.rocs)
        object.__setattr__(self, "rocs", rocs)

    @property
    def average_auc(self) -> float:
        """Mean area over those that have positive and negative rows."""
        areas = np.array([roc.auc for roc in self.rocs])
        defined = areas[~np.isnan(areas)]
        return float(defined.mean()) if defined.size else float("nan")

    def rows(self) -> list[tuple[str, str]]:
        """Return the areas as (name, value) rows."""
        return [*((roc.name, f"{roc.auc:.4f}") for roc in self.rocs), ("average AUC", f"{self.average_auc:.4f}")]

    def table(self) -> list[list[str]]:
        """Return the table of classes or columns, its header first."""
        header = ["label", "AUC", "AUC precision-recall", "positives", "negatives"]
        found = [
            [r.name, f"{r.auc:.4f}", f"{r.auc_precision_recall:.4f}", f"{r.positives:,}", f"{r.negatives:,}"]
            for r in self.rocs
        ]
        return [header, *found]

    def __str__(self) -> str:
        return f"{text_table(self.table())}\n\naverage AUC  {self.average_auc:.4f}"

    def _repr_html_(self) -> str:
        return f"<div>{html_table(self.table(), header=True)}{charts(list(self.rocs))}</div>"


class ROCMultiClass(_Rocs):
    """ROC of each class against all others: `.rocs`, `.average_auc`."""


class ROCBinary(_Rocs):
    """ROC of each column: `.rocs`, `.average_auc`."""


def check_yes_or_no(truth: NDArray[np.float64], valid: NDArray[np.bool_]) -> None:
    """Refuse labels other than 0 and 1 where they count."""
    wrong = valid & (truth != 0) & (truth != 1)
    if wrong.any():
        raise DataError(f"labels answer yes or no, 1 or 0, but one is {truth[wrong][0]}")
