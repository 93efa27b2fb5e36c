"""Regression measures of each column, from means and squares that merge without cancellation (Chan et al. 1983)."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark.errors import DataError
from hvdspark.evaluation.markup import html_table
from hvdspark.evaluation.measure import Measure, State
from hvdspark.evaluation.result import Result, text_table
from hvdspark.evaluation.rows import column_rows

__all__ = ["RegressionEvaluation", "RegressionMeasure"]

_FIGURES = ("mse", "mae", "rmse", "rse", "pearson", "r2")  # in Deeplearning4j's order


class RegressionMeasure(Measure):
    """Compares values column by column; its result is a `RegressionEvaluation`.

    Parameters
    ----------
    columns
        Their names, in order; () numbers them.
    output
        Which output of a network with several is measured.
    """

    columns: tuple[str, ...] = ()

    def observe(self, output: NDArray[Any], labels: NDArray[Any], mask: NDArray[Any] | None = None) -> State:
        """Return counts, means and sums of squares of one batch, `[columns]` each."""
        predicted, actual, valid = column_rows(output, labels, mask)
        if self.columns and len(self.columns) != predicted.shape[1]:
            raise DataError(f"columns names {len(self.columns)} columns, but the network has {predicted.shape[1]}")
        count = valid.sum(axis=0)
        predicted, actual = np.where(valid, predicted, 0.0), np.where(valid, actual, 0.0)
        mean_predicted, mean_actual = (x.sum(axis=0) / np.maximum(count, 1) for x in (predicted, actual))
        from_predicted = np.where(valid, predicted - mean_predicted, 0.0)
        from_actual = np.where(valid, actual - mean_actual, 0.0)
        error = predicted - actual
        return {
            "count": count,
            "mean_predicted": mean_predicted,
            "mean_actual": mean_actual,
            "squares_predicted": (from_predicted**2).sum(axis=0),
            "squares_actual": (from_actual**2).sum(axis=0),
            "products": (from_predicted * from_actual).sum(axis=0),
            "squared_error": (error**2).sum(axis=0),
            "absolute_error": np.abs(error).sum(axis=0),
        }

    def _merge(self, one: State, other: State) -> State:
        count = one["count"] + other["count"]
        whole = np.maximum(count, 1)
        apart_predicted = other["mean_predicted"] - one["mean_predicted"]
        apart_actual = other["mean_actual"] - one["mean_actual"]
        weight = one["count"] * (other["count"] / whole)
        merged = {name: one[name] + other[name] for name in one}
        for mean in ("mean_predicted", "mean_actual"):
            merged[mean] = one[mean] * (one["count"] / whole) + other[mean] * (other["count"] / whole)
        merged["squares_predicted"] += apart_predicted**2 * weight
        merged["squares_actual"] += apart_actual**2 * weight
        merged["products"] += apart_predicted * apart_actual * weight
        return merged

    def compute(self, state: State) -> RegressionEvaluation:
        """Return the evaluation of all rows."""
        self._check_observed(state)
        with np.errstate(divide="ignore", invalid="ignore"):
            mse, mae = (state[name] / state["count"] for name in ("squared_error", "absolute_error"))
            rse = np.where(state["squares_actual"] > 0, state["squared_error"] / state["squares_actual"], np.nan)
            spread = np.sqrt(state["squares_predicted"]) * np.sqrt(state["squares_actual"])
            pearson = np.where(spread > 0, state["products"] / spread, np.nan)
        return RegressionEvaluation(state["count"], mse, mae, rse, pearson, self.columns)


@dataclasses.dataclass(frozen=True, eq=False)
class RegressionEvaluation(Result):
    """How near values are, column by column. What is not defined is NaN (r2 and pearson of a constant column).

    Parameters
    ----------
    count : ndarray
        `[columns] int64` values compared.
    mse, mae : ndarray
        `[columns] float64` mean squared and mean absolute error.
    rse : ndarray
        `[columns] float64` squared error relative to that of always saying the labels' mean; r2 is 1 less it.
    pearson : ndarray
        `[columns] float64` correlation of output and labels.
    columns : tuple of str
        Names; () numbers them.
    """

    count: NDArray[np.int64]
    mse: NDArray[np.float64]
    mae: NDArray[np.float64]
    rse: NDArray[np.float64]
    pearson: NDArray[np.float64]
    columns: tuple[str, ...] = ()

    @property
    def rmse(self) -> NDArray[np.float64]:
        """`[columns] float64` root of the mean squared error."""
        return np.asarray(np.sqrt(self.mse))

    @property
    def r2(self) -> NDArray[np.float64]:
        """`[columns] float64` share of the labels' variance that is explained."""
        return np.asarray(1 - self.rse)

    @property
    def column_names(self) -> tuple[str, ...]:
        """The columns' names, or numbers as text."""
        return self.columns or tuple(map(str, range(len(self.count))))

    def average(self, figure: str) -> float:
        """Return the mean of a figure over the columns for which it is defined.

        Parameters
        ----------
        figure : str
            mse, mae, rmse, rse, pearson or r2.
        """
        if figure not in _FIGURES:
            raise DataError(f"there is no figure {figure!r}; there are {', '.join(_FIGURES)}")
        values = getattr(self, figure)
        defined = values[~np.isnan(values)]
        return float(defined.mean()) if defined.size else float("nan")

    def rows(self) -> list[tuple[str, str]]:
        """Return the averages over columns as (name, value) rows."""
        return [("columns", str(len(self.count))), *((name, f"{self.average(name):.6g}") for name in _FIGURES)]

    def column_rows(self) -> list[list[str]]:
        """Return the table of columns, its header first."""
        table = [["column", "rows", *_FIGURES]]
        for i, name in enumerate(self.column_names):
            table.append([name, f"{self.count[i]:,}", *(f"{getattr(self, figure)[i]:.6g}" for figure in _FIGURES)])
        return table

    def __str__(self) -> str:
        return text_table(self.column_rows())

    def _repr_html_(self) -> str:
        return html_table(self.column_rows(), header=True)
