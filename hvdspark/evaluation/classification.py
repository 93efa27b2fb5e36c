"""Classification measures from a confusion matrix, whose counts add up over partitions in any order."""

from __future__ import annotations

import dataclasses
import html

import numpy as np
from numpy.typing import NDArray

from hvdspark.errors import DataError

__all__ = ["Evaluation", "confusion_counts"]

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


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """How well classes were told apart. With two classes, precision, recall and F1 are those of class 1.

    With more classes they are macro averages over the classes for which they are defined (a class that never occurs has
    no recall, one that is never predicted no precision), as Deeplearning4j averages them.

    Parameters
    ----------
    confusion_matrix : ndarray
        `[classes, classes] int64`: rows are actual classes, columns predicted ones.
    """

    confusion_matrix: NDArray[np.int64]

    @property
    def num_examples(self) -> int:
        """How many examples were evaluated."""
        return int(self.confusion_matrix.sum())

    @property
    def accuracy(self) -> float:
        """Share of examples whose class was predicted."""
        return _ratio(np.trace(self.confusion_matrix), self.num_examples)

    @property
    def precision(self) -> float:
        """Share of a class's predictions that are right."""
        return self._averaged(self._hits, self.confusion_matrix.sum(axis=0))

    @property
    def recall(self) -> float:
        """Share of a class's examples that are found."""
        return self._averaged(self._hits, self.confusion_matrix.sum(axis=1))

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall, of each class."""
        both = self.confusion_matrix.sum(axis=0) + self.confusion_matrix.sum(axis=1)
        return self._averaged(2 * self._hits, both)

    @property
    def mcc(self) -> float:
        """Matthews' correlation coefficient, over all classes at once (Gorodkin 2004); 0 where it is not defined."""
        c = self.confusion_matrix.astype(np.float64)
        actual, predicted, total = c.sum(axis=1), c.sum(axis=0), c.sum()
        covariance = np.trace(c) * total - actual @ predicted
        spread = np.sqrt(total**2 - predicted @ predicted) * np.sqrt(total**2 - actual @ actual)
        return float(covariance / spread) if spread else 0.0

    @property
    def _hits(self) -> NDArray[np.int64]:
        return np.diagonal(self.confusion_matrix)

    def _averaged(self, hits: NDArray[np.int64], of: NDArray[np.int64]) -> float:
        if len(of) == 2:
            return _ratio(hits[1], of[1])
        defined = of > 0
        return float((hits[defined] / of[defined]).mean()) if defined.any() else 0.0

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Evaluation):
            return NotImplemented
        return np.array_equal(self.confusion_matrix, other.confusion_matrix)

    __hash__ = None  # type: ignore[assignment]  # it holds an array

    def __add__(self, other: Evaluation) -> Evaluation:
        return Evaluation(self.confusion_matrix + other.confusion_matrix)

    def rows(self) -> list[tuple[str, str]]:
        """Return the measures as (name, value) rows."""
        names = ("accuracy", "precision", "recall", "f1", "mcc")
        return [("examples", f"{self.num_examples:,}"), *((name, f"{getattr(self, name):.4f}") for name in names)]

    def __str__(self) -> str:
        lines = [f"{name:<9}  {value}" for name, value in self.rows()]
        if len(self.confusion_matrix) <= _MAX_SHOWN_CLASSES:
            width = max(2, len(str(self.confusion_matrix.max())), len(str(len(self.confusion_matrix) - 1)))
            lines += ["", "confusion matrix (rows: actual class, columns: predicted class)"]
            lines.append("     " + " ".join(f"{j:>{width}}" for j in range(len(self.confusion_matrix))))
            for i, row in enumerate(self.confusion_matrix):
                lines.append(f"{i:>4} " + " ".join(f"{count:>{width}}" for count in row))
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        cells = "".join(f"<tr><th>{html.escape(n)}</th><td>{html.escape(v)}</td></tr>" for n, v in self.rows())
        return f"<table>{cells}</table>"


def _ratio(part: np.int64 | int, whole: np.int64 | int) -> float:
    return float(part / whole) if whole else 0.0
