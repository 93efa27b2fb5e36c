"""Classification measures from a confusion matrix, whose counts add up over partitions in any order."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hvdspark.errors import ConfigurationError, DataError
from hvdspark.evaluation.markup import html_table, svg_matrix
from hvdspark.evaluation.measure import Measure, State
from hvdspark.evaluation.result import Result, class_number, ratio, text_table
from hvdspark.evaluation.rows import class_rows

__all__ = ["ClassMeasure", "Evaluation", "confusion_counts"]

_MAX_SHOWN_CLASSES = 20  # as Deeplearning4j prints it


def confusion_counts(labels: NDArray[np.int64], predictions: NDArray[np.int64], num_classes: int) -> NDArray[np.int64]:
    """Count pairs of actual and predicted class.

    Parameters
    ----------
    labels, predictions : ndarray
        `[b] int64`, class indices.
    num_classes : int
        How many classes there are.

    Returns
    -------
    ndarray
        `[num_classes, num_classes] int64`: rows are actual classes, columns predicted ones.

    Raises
    ------
    DataError
        If a label is no class index.
    """
    if labels.size and (labels.min() < 0 or labels.max() >= num_classes):
        raise DataError(
            f"labels run from {labels.min()} to {labels.max()}, but the network tells {num_classes} classes apart: "
            f"class indices must lie in 0..{num_classes - 1}"
        )
    counts = np.bincount(labels * num_classes + predictions, minlength=num_classes * num_classes)
    return counts.reshape(num_classes, num_classes).astype(np.int64)


class ClassMeasure(Measure):
    """Counts pairs of actual and predicted class; its result is an `Evaluation`.

    Parameters
    ----------
    labels
        Names of the classes, in order; () numbers them.
    top_n
        A row is right "in the top n" if fewer than n classes are strictly likelier than its own.
    decision_threshold
        For one output or two classes: class 1 is predicted from this probability on. None takes the likelier class
        of two outputs (class 0 of equal ones), and 0.5 for one output.
    output
        Which output of a network with several is measured.
    """

    labels: tuple[str, ...] = ()
    top_n: int = Field(default=1, ge=1)
    decision_threshold: float | None = Field(default=None, ge=0, le=1)

    def observe(self, output: NDArray[Any], labels: NDArray[Any], mask: NDArray[Any] | None = None) -> State:
        """Return the counts of one batch."""
        rows, actual = class_rows(output, labels, mask)
        classes = rows.shape[1]
        if self.labels and len(self.labels) != classes:
            raise DataError(f"labels names {len(self.labels)} classes, but the network tells {classes} apart")
        predicted = self._predictions(rows, is_single=np.ndim(output) < 2 or np.shape(output)[1] == 1)
        likelier = (rows > rows[np.arange(len(rows)), actual][:, None]).sum(axis=1)
        found = (likelier < self.top_n) if self.top_n > 1 else predicted == actual
        return {
            "confusion_matrix": confusion_counts(actual, predicted, classes),
            "top_n_correct": np.array(found.sum(), np.int64),
        }

    def _predictions(self, rows: NDArray[np.float64], *, is_single: bool) -> NDArray[np.int64]:
        if self.decision_threshold is None and not is_single:
            return np.asarray(rows.argmax(axis=1), np.int64)
        if rows.shape[1] != 2:
            raise DataError(
                f"decision_threshold decides between two classes, and the network tells {rows.shape[1]} apart"
            )
        threshold = 0.5 if self.decision_threshold is None else self.decision_threshold
        return np.asarray(rows[:, 1] >= threshold, np.int64)

    def compute(self, state: State) -> Evaluation:
        """Return the evaluation of all rows."""
        self._check_observed(state)
        return Evaluation(state["confusion_matrix"], self.labels, self.top_n, int(state["top_n_correct"]))


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation(Result):
    """How well classes were told apart. With two classes, precision, recall and F1 are those of class 1.

    With more classes they are macro averages over the classes for which they are defined (a class that never occurs has
    no recall, one that is never predicted no precision), as Deeplearning4j averages them.

    Parameters
    ----------
    confusion_matrix : ndarray
        `[classes, classes] int64`: rows are actual classes, columns predicted ones.
    labels : tuple of str
        Names of the classes; () numbers them.
    top_n : int
        What `top_n_accuracy` looks at.
    top_n_correct : int, optional
        How many rows were right in the top n; None takes the diagonal.
    """

    confusion_matrix: NDArray[np.int64]
    labels: tuple[str, ...] = ()
    top_n: int = 1
    top_n_correct: int | None = None

    @property
    def num_examples(self) -> int:
        """How many examples were evaluated."""
        return int(self.confusion_matrix.sum())

    @property
    def accuracy(self) -> float:
        """Share of examples whose class was predicted."""
        return ratio(np.trace(self.confusion_matrix), self.num_examples)

    @property
    def top_n_accuracy(self) -> float:
        """Share of examples whose class is among the `top_n` likeliest."""
        return self.accuracy if self.top_n_correct is None else ratio(self.top_n_correct, self.num_examples)

    @property
    def precision(self) -> float:
        """Share of a class's predictions that are right."""
        return self._averaged(self._hits, self._predicted)

    @property
    def recall(self) -> float:
        """Share of a class's examples that are found."""
        return self._averaged(self._hits, self._actual)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, of each class."""
        return self._averaged(2 * self._hits, self._predicted + self._actual)

    def f_beta(self, beta: float, label: str | int | None = None) -> float:
        """Weighted harmonic mean of precision and recall: above 1 recall weighs more, below 1 precision.

        Parameters
        ----------
        beta
            A number from 0 on; 1 gives `f1`.
        label
            A class by its name or number; None averages as the others do.

        Raises
        ------
        ConfigurationError
            If `beta` is below 0, or no number.
        DataError
            If there is no such class.
        """
        if not 0 <= beta < float("inf"):
            raise ConfigurationError(f"beta: a finite number from 0 on is needed, not {beta!r}")
        weight = beta * beta
        hits, of = (1 + weight) * self._hits, self._predicted + weight * self._actual
        if label is None:
            return self._averaged(hits, of)
        number = class_number(label, self.class_names)
        return ratio(hits[number], of[number])

    @property
    def g_measure(self) -> float:
        """Geometric mean of precision and recall, of each class."""
        return self._averaged(self._hits, np.sqrt(self._predicted * self._actual.astype(np.float64)))

    @property
    def false_positive_rate(self) -> float:
        """Share of the other classes' examples that are taken for a class."""
        return self._averaged(self._predicted - self._hits, self.num_examples - self._actual)

    @property
    def false_negative_rate(self) -> float:
        """Share of a class's examples that are not found."""
        return self._averaged(self._actual - self._hits, self._actual)

    @property
    def false_alarm_rate(self) -> float:
        """Mean of the false positive rate and the false negative rate, as Deeplearning4j defines it."""
        return (self.false_positive_rate + self.false_negative_rate) / 2

    @property
    def mcc(self) -> float:
        """Matthews' correlation coefficient, over all classes at once (Gorodkin 2004); 0 where it is not defined."""
        c = self.confusion_matrix.astype(np.float64)
        actual, predicted, total = c.sum(axis=1), c.sum(axis=0), c.sum()
        covariance = np.trace(c) * total - actual @ predicted
        spread = np.sqrt(total**2 - predicted @ predicted) * np.sqrt(total**2 - actual @ actual)
        return float(covariance / spread) if spread else 0.0

    @property
    def class_names(self) -> tuple[str, ...]:
        """The labels, or numbers as text."""
        return self.labels or tuple(map(str, range(len(self.confusion_matrix))))

    @property
    def per_class(self) -> dict[str, dict[str, float]]:
        """By class name: precision, recall, f1, g_measure, the rates of false answers, examples; 0 where 0 / 0."""
        return {name: self._of_class(i) for i, name in enumerate(self.class_names)}

    def _of_class(self, i: int) -> dict[str, float]:
        actual, predicted, hits = (int(counts[i]) for counts in (self._actual, self._predicted, self._hits))
        false_positives = ratio(predicted - hits, self.num_examples - actual)
        false_negatives = ratio(actual - hits, actual)
        return {
            "precision": ratio(hits, predicted),
            "recall": ratio(hits, actual),
            "f1": ratio(2 * hits, predicted + actual),
            "g_measure": ratio(hits, (predicted * actual) ** 0.5),
            "false_positive_rate": false_positives,
            "false_negative_rate": false_negatives,
            "false_alarm_rate": (false_positives + false_negatives) / 2,
            "examples": actual,
        }

    @property
    def _hits(self) -> NDArray[np.int64]:
        return np.diagonal(self.confusion_matrix)

    @property
    def _actual(self) -> NDArray[np.int64]:
        return np.asarray(self.confusion_matrix.sum(axis=1))

    @property
    def _predicted(self) -> NDArray[np.int64]:
        return np.asarray(self.confusion_matrix.sum(axis=0))

    def _averaged(self, hits: NDArray[Any], of: NDArray[Any]) -> float:
        if len(of) == 2:
            return ratio(hits[1], of[1])
        defined = of > 0
        return float((hits[defined] / of[defined]).mean()) if defined.any() else 0.0

    def __add__(self, other: Evaluation) -> Evaluation:
        if (self.labels, self.top_n) != (other.labels, other.top_n):
            raise DataError("evaluations with other labels or another top_n do not add up")
        known = self.top_n_correct is not None and other.top_n_correct is not None
        correct = int(self.top_n_correct or 0) + int(other.top_n_correct or 0) if known else None
        return Evaluation(self.confusion_matrix + other.confusion_matrix, self.labels, self.top_n, correct)

    def rows(self) -> list[tuple[str, str]]:
        """Return the measures as (name, value) rows."""
        names = ("accuracy", "precision", "recall", "f1", "mcc")
        found = [("examples", f"{self.num_examples:,}"), *((name, f"{getattr(self, name):.4f}") for name in names)]
        if self.top_n > 1:
            found.insert(2, (f"top {self.top_n}", f"{self.top_n_accuracy:.4f}"))
        return found

    def class_rows(self) -> list[list[str]]:
        """Return the table of classes, its header first."""
        table = [["class", "precision", "recall", "f1", "examples"]]
        for name, values in self.per_class.items():
            shares = [f"{values[key]:.4f}" for key in ("precision", "recall", "f1")]
            table.append([name, *shares, f"{values['examples']:,}"])
        return table

    def __str__(self) -> str:
        lines = [f"{name:<9}  {value}" for name, value in self.rows()]
        if len(self.confusion_matrix) <= _MAX_SHOWN_CLASSES:
            lines += ["", text_table(self.class_rows())]
            width = max(2, len(str(self.confusion_matrix.max())), len(str(len(self.confusion_matrix) - 1)))
            lines += ["", "confusion matrix (rows: actual class, columns: predicted class)"]
            lines.append("     " + " ".join(f"{j:>{width}}" for j in range(len(self.confusion_matrix))))
            for i, row in enumerate(self.confusion_matrix):
                name = f"  {self.labels[i]}" if self.labels else ""
                lines.append(f"{i:>4} " + " ".join(f"{count:>{width}}" for count in row) + name)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        parts = [html_table(self.rows())]
        if len(self.confusion_matrix) <= _MAX_SHOWN_CLASSES:
            parts += [html_table(self.class_rows(), header=True), svg_matrix(self.confusion_matrix, self.class_names)]
        return "<div>" + "".join(parts) + "</div>"
