"""Prediction on Spark: the network goes to the rows, partition by partition, and adds columns to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hvdspark.data import Table, workers_explained
from hvdspark.masters import Parcel
from hvdspark.network import Network
from hvdspark.spark.batches import outputs
from hvdspark.spark.passes import check_batch_size
from hvdspark.spark.tables import add_columns, check_names

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

__all__ = ["predict"]

_ADDED = ("prediction", "probability")


def predict(network: Network, table: Table, batch_size: int) -> DataFrame:
    """Add a network's predictions to a DataFrame.

    Nothing runs until the result is used, except that one row is looked at where the loss is not one of classes, to see
    how many values the network gives.

    Parameters
    ----------
    network : Network
        A class loss gives `prediction` (the class index as a double) and `probability` (a vector); others give
        `prediction` alone: a double, or an array of doubles where the network has several outputs.
    table : Table
        All its columns are kept.
    batch_size : int
        Rows that go through the network at a time.

    Raises
    ------
    DataError
        If the DataFrame has a column of an added name already.
    """
    from pyspark.sql import types

    check_batch_size(batch_size)
    # Not the network itself: what Spark pickles is to name no class of the user's.
    is_classifier = network.is_classifier
    check_names(table.frame, _ADDED[: 2 if is_classifier else 1], "predict")
    parcel, plan = Parcel(network), table.plan
    several = not is_classifier and _num_outputs(parcel, table) > 1
    doubles = types.ArrayType(types.DoubleType())
    added = [types.StructField("prediction", doubles if several else types.DoubleType())]
    if is_classifier:
        added.append(types.StructField("probability", doubles))

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[pa.RecordBatch, list[Any]]]:
        for batch, readable in outputs(parcel, plan, batches, batch_size):
            yield batch, _columns(readable, is_classifier=is_classifier, several=several)

    return add_columns(table, added, work, vectors=["probability"] if is_classifier else [])


def _columns(readable: torch.Tensor, *, is_classifier: bool, several: bool) -> list[Any]:
    import pyarrow as pa

    if is_classifier:
        classes = readable.argmax(dim=1).to(torch.float64).numpy()
        return [pa.array(classes), _lists(readable)]
    if several:
        return [_lists(readable)]
    return [pa.array(readable.reshape(-1).to(torch.float64).numpy())]


def _lists(values: torch.Tensor) -> Any:
    import pyarrow as pa

    flat = values.reshape(len(values), -1).to(torch.float64).numpy()
    offsets = np.arange(0, flat.size + 1, flat.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(flat.reshape(-1)))


def _num_outputs(parcel: Parcel, table: Table) -> int:
    """Find out from one row how many values the network gives for a row; a column's type depends on it."""
    data, plan = table

    def measure(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for _, readable in outputs(parcel, plan, batches, 1):
            yield pa.RecordBatch.from_pydict({"width": pa.array([readable[0].numel()], "int64")})

    with workers_explained():
        rows = data.select(*plan.select()).limit(1).mapInArrow(measure, "width bigint").collect()
    return int(rows[0].width) if rows else 1
