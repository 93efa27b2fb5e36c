"""Checked numpy arrays out of Arrow columns, without a Python loop over rows."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

__all__ = ["Problem", "ProblemKind", "read_lists", "read_scalars"]

ProblemKind = Literal["null", "not finite", "width", "empty"]


@dataclass(frozen=True)
class Problem:
    """Rows of one column that cannot be trained on.

    Parameters
    ----------
    column
        Name of the column.
    kind
        ``null``: a null, or a null inside an array; ``not finite``: NaN, infinity, or a number too large for float32;
        ``width``: arrays of unequal length; ``empty``: arrays without a number.
    count
        Rows that are affected.
    first_row
        The first of them, counted from 0 in the batch or partition that was looked at.
    widths
        Of kind ``width``: the length that was expected, and the first other one.
    """

    column: str
    kind: ProblemKind
    count: int
    first_row: int
    widths: tuple[int, int] | None = None


def read_scalars(column: Any, name: str, dtype: type[np.generic]) -> tuple[NDArray[Any] | None, Problem | None]:
    """Return a column of numbers as an array, or what is wrong with it.

    Parameters
    ----------
    column
        A pyarrow Array of numbers or booleans.
    name
        Its name, for the problem.
    dtype
        ``np.int64`` or ``np.float32``.

    Returns
    -------
    values, problem
        `[b] dtype`, which may lie in Arrow's memory (read-only); one of the two is None.
    """
    if column.null_count:
        return None, _problem(name, "null", column.is_null().to_numpy(zero_copy_only=False))
    values = _numbers(column, dtype)
    bad = ~np.isfinite(values)
    if bad.any():
        return None, _problem(name, "not finite", bad)
    return values, None


def read_lists(column: Any, name: str, width: int | None = None) -> tuple[NDArray[np.float32] | None, Problem | None]:
    """Return a column of arrays of numbers as a matrix, or what is wrong with it.

    Parameters
    ----------
    column
        A pyarrow ListArray, LargeListArray or FixedSizeListArray of numbers.
    name
        Its name, for the problem.
    width
        The length that every array must have; None: that of the first one.

    Returns
    -------
    values, problem
        `[b, width] float32`, which may lie in Arrow's memory (read-only); one of the two is None.
    """
    if column.null_count:
        return None, _problem(name, "null", column.is_null().to_numpy(zero_copy_only=False))
    widths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    expected = width if width is not None else int(widths[0]) if len(widths) else 0
    other = widths != expected
    if other.any():
        found = int(widths[np.argmax(other)])
        return None, _problem(name, "width", other, (expected, found))
    if expected == 0 and len(widths):
        return None, Problem(name, "empty", len(widths), 0)
    flat = pc.list_flatten(column)
    if flat.null_count:
        nulls = flat.is_null().to_numpy(zero_copy_only=False).reshape(len(column), expected)
        return None, _problem(name, "null", nulls.any(axis=1))
    matrix = _numbers(flat, np.float32).reshape(len(column), expected)
    # One cheap pass for the usual case: a float64 sum of float32 numbers is finite exactly if all of them are, for it
    # cannot overflow.
    with np.errstate(invalid="ignore"):  # infinity minus infinity: looked at below
        total = float(matrix.sum(dtype=np.float64))
    if not math.isfinite(total):
        bad = ~np.isfinite(matrix).all(axis=1)
        if bad.any():
            return None, _problem(name, "not finite", bad)
    return matrix, None


def _numbers(column: Any, dtype: type[np.generic]) -> NDArray[Any]:
    if pa.types.is_boolean(column.type):
        column = pc.cast(column, pa.uint8())  # numpy has no view of Arrow's bit-packed booleans
    values = column.to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):  # a double too large for float32 becomes infinity, which the caller reports
        converted: NDArray[Any] = values.astype(dtype, copy=False)
    return converted


def _problem(name: str, kind: ProblemKind, bad: NDArray[Any], widths: tuple[int, int] | None = None) -> Problem:
    return Problem(name, kind, int(np.count_nonzero(bad)), int(np.argmax(bad)), widths)
