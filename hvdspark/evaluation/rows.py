"""Batches as rows: axes are brought into order and masked rows are left out."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark.errors import DataError, NonFiniteError

__all__ = ["check_probabilities", "class_rows", "column_rows"]


def class_rows(
    output: NDArray[Any], labels: NDArray[Any], mask: NDArray[Any] | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return one row for each place where a class is told.

    Parameters
    ----------
    output
        `[b, classes]` or `[b, classes, ...]` probabilities; `[b]` or `[b, 1]` is that of class 1.
    labels
        Class indices (the output's shape without the axis of classes), or one column a class (the output's shape).
    mask
        `[b]`, or the shape of the class indices; or None.

    Returns
    -------
    tuple
        `[n, classes] float64` probabilities, `[n] int64` class indices.

    Raises
    ------
    DataError
        If shapes do not fit, or labels are no class indices.
    NonFiniteError
        If the output is NaN.
    """
    output, labels = np.asarray(output), np.asarray(labels)
    if output.ndim < 2:
        output = output.reshape(-1, 1)
    places = (output.shape[0], *output.shape[2:])
    if output.shape[1] > 1 and labels.shape == output.shape:
        labels = labels.argmax(axis=1)
    elif labels.shape == (places[0], 1, *places[1:]):
        labels = labels.reshape(places)
    if labels.shape != places:
        raise DataError(
            f"labels of shape {labels.shape} do not fit an output of shape {output.shape}: class indices of shape "
            f"{places} or one column a class are needed"
        )
    rows = np.moveaxis(output, 1, -1).reshape(-1, output.shape[1]).astype(np.float64)
    kept = _kept(mask, places)
    rows, labels = rows[kept], labels.reshape(-1)[kept]
    _check_numbers(rows, "the output")
    if rows.shape[1] == 1:
        rows = np.concatenate([1 - rows, rows], axis=1)
    return rows, _indices(labels, rows.shape[1])


def column_rows(
    output: NDArray[Any], labels: NDArray[Any], mask: NDArray[Any] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return one row for each place where columns are told.

    Parameters
    ----------
    output, labels
        `[b]`, `[b, columns]` or `[b, ..., columns]`, of the same shape (`[b]` and `[b, 1]` are).
    mask
        `[b]`, the shape without columns, or the whole shape (a mask for each column); or None.

    Returns
    -------
    tuple
        `[n, columns] float64` output and labels, `[n, columns] bool` which of them count.

    Raises
    ------
    DataError
        If shapes do not fit.
    NonFiniteError
        If what counts is NaN.
    """
    output, labels = np.asarray(output), np.asarray(labels)
    output = output.reshape(-1, 1) if output.ndim < 2 else output
    labels = labels.reshape(-1, 1) if labels.ndim < 2 else labels
    if output.shape != labels.shape:
        raise DataError(
            f"labels of shape {labels.shape} do not fit an output of shape {output.shape}: nothing is broadcast"
        )
    columns = output.shape[-1]
    if mask is not None and np.shape(mask) == output.shape and output.ndim > 1:
        valid = _kept(mask, output.shape).reshape(-1, columns)
    else:
        valid = np.repeat(_kept(mask, output.shape[:-1])[:, None], columns, axis=1)
    rows, truth = (array.reshape(-1, columns).astype(np.float64) for array in (output, labels))
    _check_numbers(rows[valid], "the output")
    _check_numbers(truth[valid], "a label")
    return rows, truth, valid


def check_probabilities(values: NDArray[np.float64], what: str) -> None:
    """Refuse values outside of 0..1, naming the first (DataError); `what` needs them."""
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        wrong = values[(values < 0) | (values > 1)][0]
        raise DataError(f"{what} needs probabilities, but the network says {wrong}: give it an output such as sigmoid")


def _kept(mask: NDArray[Any] | None, places: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return which of the places count, `[n] bool`."""
    if mask is None:
        return np.ones(int(np.prod(places)), bool)
    mask = np.asarray(mask)
    if not ((mask == 0) | (mask == 1)).all():
        raise DataError(
            f"a mask is 0 or 1, but one value is {mask[(mask != 0) & (mask != 1)][0]}: rows are counted, not weighted"
        )
    if mask.shape != places:
        if mask.size != places[0]:
            raise DataError(
                f"a mask of shape {mask.shape} does not fit: {places} or one for each of {places[0]} examples"
            )
        mask = np.broadcast_to(mask.reshape(-1, *[1] * (len(places) - 1)), places)
    return mask.astype(bool).reshape(-1)


def _indices(labels: NDArray[Any], classes: int) -> NDArray[np.int64]:
    _check_numbers(labels, "a label")
    indices = labels.astype(np.int64)
    if not np.array_equal(indices, labels):
        raise DataError(f"class indices are whole numbers, but a label is {labels[indices != labels][0]}")
    if indices.size and (indices.min() < 0 or indices.max() >= classes):
        raise DataError(
            f"labels run from {indices.min()} to {indices.max()}, but the network tells {classes} classes apart: "
            f"class indices must lie in 0..{classes - 1}"
        )
    return indices


def _check_numbers(values: NDArray[Any], what: str) -> None:
    if not np.isfinite(values).all():
        raise NonFiniteError(
            f"{what} is {values[~np.isfinite(values)][0]}: it cannot be evaluated; did training diverge?"
        )
