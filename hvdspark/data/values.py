"""Checked numpy arrays out of Arrow columns, without a Python loop over rows."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hvdspark.data.problems import Problem, ProblemKind, unequal_shapes

__all__ = ["as_mask", "as_stored", "not_finite", "read_binary", "read_lists", "read_scalars"]


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


def read_lists(
    column: Any,
    name: str,
    shape: tuple[int, ...] | None = None,
    *,
    dtype: type[np.generic] = np.float32,
    depth: int = 1,
) -> tuple[NDArray[Any] | None, Problem | None]:
    """Return a column of arrays of numbers as one array, or what is wrong with it.

    Parameters
    ----------
    column
        A pyarrow ListArray, LargeListArray or FixedSizeListArray of numbers, or of such arrays.
    name
        Its name, for the problem.
    shape
        The lengths that every array must have, one for each level; None: those of the first row.
    dtype
        ``np.int64`` or ``np.float32``.
    depth
        How many arrays lie in each other: 1 for arrays of numbers.

    Returns
    -------
    values, problem
        `[b, *shape] dtype`, which may lie in Arrow's memory (read-only); one of the two is None.
    """
    num_rows, lengths = len(column), list[int]()
    for level in range(depth):
        per_row = math.prod(lengths)
        if column.null_count:
            nulls = column.is_null().to_numpy(zero_copy_only=False).reshape(num_rows, per_row)
            return None, _problem(name, "null", nulls.any(axis=1))
        widths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
        expected = shape[level] if shape is not None else int(widths[0]) if len(widths) else 0
        other = widths != expected
        if other.any():
            rows = other.reshape(num_rows, per_row).any(axis=1)
            found = int(widths[np.argmax(other)])
            problem = unequal_shapes(name, int(np.count_nonzero(rows)), int(np.argmax(rows)), (expected,), (found,))
            return None, problem
        if expected == 0 and num_rows:
            return None, Problem(name, "empty", num_rows, 0)
        lengths.append(expected)
        column = pc.list_flatten(column)
    if column.null_count:
        nulls = column.is_null().to_numpy(zero_copy_only=False).reshape(num_rows, -1)
        return None, _problem(name, "null", nulls.any(axis=1))
    values = _numbers(column, dtype).reshape(num_rows, *lengths)
    bad = not_finite(values, name)
    return (None, bad) if bad else (values, None)


def read_binary(
    column: Any, name: str, decode: Callable[[bytes], Any], shape: tuple[int, ...] | None = None
) -> tuple[NDArray[Any] | None, Problem | None]:
    """Return what a user's function makes of a column of bytes, or what is wrong with it.

    Parameters
    ----------
    column
        A pyarrow BinaryArray.
    name
        Its name, for the problem.
    decode
        Turns the bytes of one row into an array or tensor of numbers.
    shape
        What every array must have; None: that of the first one.

    Returns
    -------
    values, problem
        `[b, *shape]` of a dtype that is stored (`as_stored`); one of the two is None.
    """
    if column.null_count:
        return None, _problem(name, "null", column.is_null().to_numpy(zero_copy_only=False))
    arrays: list[NDArray[Any]] = []
    problems: list[Problem] = []
    for row, value in enumerate(column):
        try:
            array = as_stored(np.asarray(decode(value.as_py())))
        except Exception as error:  # noqa: BLE001  # whatever a user's function raises is told with the row
            problems.append(Problem(name, "decode", 1, row, f"{type(error).__name__}: {error}"))
            continue
        expected = shape if shape is not None else arrays[0].shape if arrays else array.shape
        if array.shape != expected:
            problems.append(unequal_shapes(name, 1, row, expected, array.shape))
        elif not array.size:
            problems.append(Problem(name, "empty", 1, row))
        elif arrays and array.dtype != arrays[0].dtype:
            problems.append(Problem(name, "dtype", 1, row, f"{arrays[0].dtype} and {array.dtype}"))
        arrays.append(array)
    if problems:
        first = problems[0]
        same = [problem for problem in problems if problem.kind == first.kind]
        return None, Problem(name, first.kind, len(same), first.first_row, first.detail)
    values = np.stack(arrays) if arrays else np.empty((0, *(shape or ())), np.float32)
    bad = not_finite(values, name)
    return (None, bad) if bad else (values, None)


def as_stored(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array in the dtype that it is staged in: float32, int64, uint8 (images) or bool.

    Raises
    ------
    TypeError
        Where it holds no real numbers.
    """
    kind, dtype = array.dtype.kind, array.dtype
    if kind == "b" or dtype == np.uint8 or dtype == np.float32 or dtype == np.int64:
        return array if dtype.isnative else array.astype(dtype.newbyteorder("="))
    if kind in "iu":
        if dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
            raise TypeError("numbers from 2**63 on do not fit into int64")
        return array.astype(np.int64)
    if kind == "f":
        with np.errstate(over="ignore"):  # what is too large becomes infinity, which is reported
            return array.astype(np.float32)
    raise TypeError(f"an array of {dtype} was given, an array of real numbers is needed")


def as_mask(values: NDArray[Any], name: str) -> tuple[NDArray[Any] | None, Problem | None]:
    """Return a mask as bool, or what is wrong with it."""
    mask = values.astype(bool)
    bad = (mask != values).reshape(len(values), -1).any(axis=1)
    return (None, _problem(name, "mask", bad)) if bad.any() else (mask, None)


def not_finite(values: NDArray[Any], name: str) -> Problem | None:
    """Return the problem of rows with NaN or infinity, if there is one."""
    if values.dtype.kind != "f":
        return None
    # One cheap pass for the usual case: a float64 sum of float32 numbers is finite exactly if all of them are, for it
    # cannot overflow.
    with np.errstate(invalid="ignore"):  # infinity minus infinity: looked at below
        total = float(values.sum(dtype=np.float64))
    if math.isfinite(total):
        return None
    bad = ~np.isfinite(values).reshape(len(values), -1).all(axis=1)
    return _problem(name, "not finite", bad) if bad.any() else None


def _numbers(column: Any, dtype: type[np.generic]) -> NDArray[Any]:
    if pa.types.is_boolean(column.type):
        column = pc.cast(column, pa.uint8())  # numpy has no view of Arrow's bit-packed booleans
    values = column.to_numpy(zero_copy_only=False)
    with np.errstate(over="ignore"):  # a double too large for float32 becomes infinity, which the caller reports
        converted: NDArray[Any] = values.astype(dtype, copy=False)
    return converted


def _problem(name: str, kind: ProblemKind, bad: NDArray[Any]) -> Problem:
    return Problem(name, kind, int(np.count_nonzero(bad)), int(np.argmax(bad)))
