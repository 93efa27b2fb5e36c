"""Yes-or-no questions, several a row: counts of each column."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hvdspark.errors import DataError
from hvdspark.evaluation.markup import html_table
from hvdspark.evaluation.measure import Measure, State
from hvdspark.evaluation.result import Result, text_table
from hvdspark.evaluation.rows import column_rows
from hvdspark.evaluation.scores import check_yes_or_no

__all__ = ["BinaryMeasure", "EvaluationBinary"]

_FIGURES = ("accuracy", "precision", "recall", "f1")


class BinaryMeasure(Measure):
    """Counts right and wrong answers of each column; its result is an `EvaluationBinary`.

    Parameters
    ----------
    columns
        Their names, in order; () numbers them.
    decision_threshold
        The answer is yes from this probability on.
    output
        Which output of a network with several is measured.
    """

    columns: tuple[str, ...] = ()
    decision_threshold: float = Field(default=0.5, ge=0, le=1)

    def observe(self, output: NDArray[Any], labels: NDArray[Any], mask: NDArray[Any] | None = None) -> State:
        """Return the counts of one batch."""
        rows, truth, valid = column_rows(output, labels, mask)
        if self.columns and len(self.columns) != rows.shape[1]:
            raise DataError(f"columns names {len(self.columns)} columns, but the network has {rows.shape[1]}")
        check_yes_or_no(truth, valid)
        yes, right = rows >= self.decision_threshold, truth == 1
        cells = [yes & right, yes & ~right, ~yes & right, ~yes & ~right]
        return {"counts": np.stack([(cell & valid).sum(axis=0) for cell in cells])}

    def compute(self, state: State) -> EvaluationBinary:
        """Return the evaluation of all rows."""
        self._check_observed(state)
        counts = state["counts"]
        return EvaluationBinary(counts[0], counts[1], counts[2], counts[3], self.columns)


@dataclasses.dataclass(frozen=True, eq=False)
class EvaluationBinary(Result):
    """How well each yes-or-no question is answered. A share of nothing is 0.

    Parameters
    ----------
    true_positives, false_positives, false_negatives, true_negatives : ndarray
        `[columns] int64`.
    columns : tuple of str
        Names; () numbers them.
    """

    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]
    false_negatives: NDArray[np.int64]
    true_negatives: NDArray[np.int64]
    columns: tuple[str, ...] = ()

    @property
    def count(self) -> NDArray[np.int64]:
        """`[columns] int64` answers compared."""
        return self.true_positives + self.false_positives + self.false_negatives + self.true_negatives

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """`[columns] float64` share of right answers."""
        return _shares(self.true_positives + self.true_negatives, self.count)

    @property
    def precision(self) -> NDArray[np.float64]:
        """`[columns] float64` share of the answers yes that are right."""
        return _shares(self.true_positives, self.true_positives + self.false_positives)

    @property
    def recall(self) -> NDArray[np.float64]:
        """`[columns] float64` share of what is yes that was found."""
        return _shares(self.true_positives, self.true_positives + self.false_negatives)

    @property
    def f1(self) -> NDArray[np.float64]:
        """`[columns] float64` harmonic mean of precision and recall."""
        hits = 2 * self.true_positives
        return _shares(hits, hits + self.false_positives + self.false_negatives)

    @property
    def column_names(self) -> tuple[str, ...]:
        """The columns' names, or numbers as text."""
        return self.columns or tuple(map(str, range(len(self.count))))

    def rows(self) -> list[tuple[str, str]]:
        """Return the means over columns as (name, value) rows."""
        found = ((f"average {name}", f"{getattr(self, name).mean():.4f}") for name in _FIGURES)
        return [("columns", str(len(self.count))), *found]

    def table(self) -> list[list[str]]:
        """Return the table of columns, its header first."""
        found = [["label", *_FIGURES, "TP", "TN", "FP", "FN"]]
        for i, name in enumerate(self.column_names):
            counts = (self.true_positives, self.true_negatives, self.false_positives, self.false_negatives)
            shares = [f"{getattr(self, figure)[i]:.4f}" for figure in _FIGURES]
            found.append([name, *shares, *(f"{count[i]:,}" for count in counts)])
        return found

    def __str__(self) -> str:
        return f"{text_table(self.table())}\n\n{text_table(self.rows())}"

    def _repr_html_(self) -> str:
        return f"<div>{html_table(self.table(), header=True)}{html_table(self.rows())}</div>"


def _shares(part: NDArray[np.int64], whole: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.where(whole > 0, part / np.maximum(whole, 1), 0.0)
