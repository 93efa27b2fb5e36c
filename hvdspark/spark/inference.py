"""Prediction on Spark: the network goes to the rows, partition by partition, and adds columns to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hvdspark.data import Table, workers_explained
from hvdspark.errors import ModelError
from hvdspark.masters import Parcel
from hvdspark.network import CLASS_LOSSES, Network, each_loss
from hvdspark.spark.batches import outputs, said
from hvdspark.spark.heads import names_of
from hvdspark.spark.passes import check_batch_size
from hvdspark.spark.tables import add_columns, check_names

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

__all__ = ["predict"]

_PREDICTION, _PROBABILITY = "prediction", "probability"


def predict(
    network: Network, table: Table, batch_size: int, names: Sequence[str] | None = None, *, device: str
) -> DataFrame:
    """Add a network's predictions to a DataFrame.

    Nothing runs until the result is used, except that one row is looked at where a loss is not one of classes, to see
    how many values the network gives. Of a streaming DataFrame no row can be: a row of zeros is tried on the driver.

    Parameters
    ----------
    network : Network
        A class loss gives `prediction` (the class index as a double) and `probability` (a vector); others give
        `prediction` alone: a double, or an array of doubles where the network has several values. With several outputs
        each gives its own, by its own loss: `prediction_<name>` and `probability_<name>`.
    table : Table
        All its columns are kept.
    batch_size : int
        Rows that go through the network at a time.
    names : sequence of str, optional
        Of the outputs, if there are as many as the network has; else they are counted from 0. None: several outputs are
        refused.
    device : str
        Where the network computes, as of `Parcel`.

    Raises
    ------
    DataError
        If the DataFrame has a column of an added name already, or streams and the shape of a column is not known.
    ModelError
        If there are several outputs, and one is understood.
    """
    from pyspark.sql import types

    check_batch_size(batch_size)
    if network.is_classifier:
        check_names(table.frame, (_PREDICTION, _PROBABILITY), "predict")
    parcel, plan, several = Parcel(network, device), table.plan, names is not None
    # Not the network itself, nor its loss: what Spark pickles is to name no class of the user's.
    heads = _heads(network, parcel, table, names)
    doubles = types.ArrayType(types.DoubleType())
    added = []
    for head in heads:
        wide = head.is_wide and not head.is_classes
        added.append(types.StructField(_PREDICTION + head.suffix, doubles if wide else types.DoubleType()))
        if head.is_classes:
            added.append(types.StructField(_PROBABILITY + head.suffix, doubles))
    check_names(table.frame, [field.name for field in added], "predict")

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[pa.RecordBatch, list[Any]]]:
        for batch, found in outputs(parcel, plan, batches, batch_size, several=several):
            yield batch, [column for head, one in zip(heads, found, strict=True) for column in head.columns(one)]

    vectors = [_PROBABILITY + head.suffix for head in heads if head.is_classes]
    return add_columns(table, added, work, vectors=vectors)


@dataclass(frozen=True)
class _Head:
    """One output on its way into columns."""

    suffix: str
    is_classes: bool
    is_wide: bool

    def columns(self, readable: torch.Tensor) -> list[Any]:
        """Return the Arrow arrays of its columns."""
        import pyarrow as pa

        if self.is_classes:
            if readable.ndim != 2:
                raise ModelError(
                    f"{_PREDICTION + self.suffix} is one class a row, and the network says probabilities of shape "
                    f"{list(readable.shape)}, [b, classes, ...] of several steps: feed_forward_with_key, and predict "
                    "of an array, give them as they are; Network(output=...) may make [b, classes] of them"
                )
            classes = readable.argmax(dim=1).to(torch.float64).numpy()
            return [pa.array(classes), _lists(readable)]
        if self.is_wide:
            return [_lists(readable)]
        return [pa.array(readable.reshape(-1).to(torch.float64).numpy())]


def _heads(network: Network, parcel: Parcel, table: Table, names: Sequence[str] | None) -> list[_Head]:
    losses = each_loss(network.loss)
    classes = [isinstance(loss, CLASS_LOSSES) for loss in losses]
    # What a function of the user's makes of several outputs is not known before it has run.
    is_known = all(classes) and (network.is_classifier or (names is not None and network.output is None))
    # Of a table without rows: as many as have names, of one value each.
    widths = [1] * len(names if names and network.output is None else [""])
    if not is_known:
        widths = _widths(parcel, table, several=names is not None) or widths
    if len(widths) != len(losses):
        classes = [False] * len(widths)
    suffixes = [f"_{name}" for name in names_of(names or (), len(widths))] if len(widths) > 1 else [""]
    return [_Head(*head) for head in zip(suffixes, classes, [width > 1 for width in widths], strict=True)]


def _lists(values: torch.Tensor) -> Any:
    import pyarrow as pa

    flat = values.reshape(len(values), -1).to(torch.float64).numpy()
    offsets = np.arange(0, flat.size + 1, flat.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(flat.reshape(-1)))


def _widths(parcel: Parcel, table: Table, *, several: bool) -> list[int]:
    """Find out from one row how many values each output gives for a row; a column's type depends on it."""
    data, plan = table
    if data.isStreaming:
        network = parcel.open("cpu")  # this is the driver, and the device is that of the workers
        network.module.eval()
        return [one[0].numel() for one in said(network, [plan.blank()], 1, several=several)]

    def measure(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for _, found in outputs(parcel, plan, batches, 1, several=several):
            widths = pa.array([[one[0].numel() for one in found]], pa.list_(pa.int64()))
            yield pa.RecordBatch.from_pydict({"widths": widths})

    with workers_explained():
        rows = data.select(*plan.select()).limit(1).mapInArrow(measure, "widths array<bigint>").collect()
    return [int(width) for width in rows[0].widths] if rows else []
