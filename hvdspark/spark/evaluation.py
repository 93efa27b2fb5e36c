"""Evaluation on Spark: each partition counts, the driver adds up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hvdspark.data import ColumnPlan, Table, workers_explained
from hvdspark.errors import ConfigurationError, DataError
from hvdspark.evaluation import Evaluation, confusion_counts
from hvdspark.masters import Parcel
from hvdspark.network import Network
from hvdspark.spark.batches import outputs

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["evaluate_classes"]

_BINARY_LOSSES = (nn.BCELoss, nn.BCEWithLogitsLoss)
_SCHEMA = "counts array<bigint>, problem string"


def evaluate_classes(network: Network, table: Table, batch_size: int) -> Evaluation:
    """Count pairs of actual and predicted class over a DataFrame.

    Parameters
    ----------
    network : Network
        With a class loss, or a binary loss and one output (predicted 1 from a probability of 0.5).
    table : Table
        What is evaluated; with a label.
    batch_size : int
        Rows that go through the network at a time.

    Raises
    ------
    ConfigurationError
        If the network does not tell classes apart.
    DataError
        If rows cannot be read, labels are no class indices, or there is no row.
    """
    if not (network.is_classifier or isinstance(network.loss, _BINARY_LOSSES)):
        raise ConfigurationError(
            f"evaluate counts classes, but the loss is {type(network.loss).__name__}: "
            "CrossEntropyLoss, NLLLoss, BCELoss or BCEWithLogitsLoss is needed"
        )
    if batch_size < 1:
        raise ConfigurationError(f"batch_size: at least 1 is needed, not {batch_size}")
    parcel, plan = Parcel(network), table.plan
    is_binary = isinstance(network.loss, _BINARY_LOSSES)

    def count(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        total, problem = _count_partition(parcel, plan, batches, batch_size, is_binary=is_binary)
        counts = None if total is None else total.reshape(-1)
        yield pa.RecordBatch.from_pydict(
            {
                "counts": pa.array([counts], pa.list_(pa.int64())),
                "problem": pa.array([problem], "string"),
            }
        )

    with workers_explained():
        rows = table.frame.select(*plan.select()).mapInArrow(count, _SCHEMA).collect()
    for row in rows:
        if row.problem:
            raise DataError(row.problem)
    found = [np.array(row.counts, np.int64) for row in rows if row.counts is not None]
    if not found:
        raise DataError("the DataFrame is empty: there is no row to evaluate")
    side = int(np.sqrt(len(found[0])))
    return Evaluation(np.sum(found, axis=0).reshape(side, side))


def _count_partition(
    parcel: Parcel, plan: ColumnPlan, batches: Iterator[Any], batch_size: int, *, is_binary: bool
) -> tuple[NDArray[np.int64] | None, str | None]:
    """Return the counts of a partition (None without rows), or what is wrong with it as text."""
    total: NDArray[np.int64] | None = None
    try:
        for _, readable, labels in outputs(parcel, plan, batches, batch_size):
            assert labels is not None
            predicted, num_classes = _classes(readable)
            if is_binary and readable.ndim > 1 and readable.shape[1] > 1:
                raise DataError(
                    f"the network says yes or no to {readable.shape[1]} questions a row, and evaluate counts one "
                    "class a row: compare the columns of predict one by one"
                )
            counts = confusion_counts(_indices(labels), predicted, num_classes)
            total = counts if total is None else total + counts
    except DataError as error:
        return None, str(error)
    return total, None


def _classes(readable: torch.Tensor) -> tuple[NDArray[np.int64], int]:
    if readable.ndim == 1 or readable.shape[1] == 1:
        return (readable.reshape(-1) >= 0.5).to(torch.int64).numpy(), 2
    return readable.argmax(dim=1).numpy(), readable.shape[1]


def _indices(labels: NDArray[Any]) -> NDArray[np.int64]:
    if labels.ndim == 2 and labels.shape[1] > 1:
        return np.asarray(labels.argmax(axis=1), np.int64)  # one column a class
    labels = labels.reshape(-1)
    indices = np.asarray(labels, np.int64)
    if not np.array_equal(indices, labels):
        raise DataError(f"class indices are whole numbers, but a label is {labels[indices != labels][0]}")
    return indices
