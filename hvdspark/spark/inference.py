"""Prediction on Spark: the network goes to the rows, partition by partition, and adds columns to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hvdspark.data import ColumnPlan, Table, workers_explained
from hvdspark.errors import ConfigurationError, DataError
from hvdspark.masters import Parcel
from hvdspark.network import Network
from hvdspark.spark.batches import outputs

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
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import functions, types

    if batch_size < 1:
        raise ConfigurationError(f"batch_size: at least 1 is needed, not {batch_size}")
    data, plan = table
    is_classifier = (
        network.is_classifier
    )  # not the network itself: what Spark pickles is to name no class of the user's
    _check_names(data, _ADDED[: 2 if is_classifier else 1])
    parcel = Parcel(network)
    several = not is_classifier and _num_outputs(parcel, plan, data) > 1
    doubles = types.ArrayType(types.DoubleType())
    # Under names of our own: mapInArrow looks columns up by name, which fails where names hold dots or come twice.
    own = [
        types.StructField(f"hvdspark_own_{i}", field.dataType, field.nullable, field.metadata)
        for i, field in enumerate(data.schema.fields)
    ]
    schema = types.StructType([*own]).add("prediction", doubles if several else types.DoubleType())
    if is_classifier:
        schema = schema.add("probability", doubles)
    renamed = data.toDF(*(field.name for field in own))

    def add(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for batch, readable, _ in outputs(parcel, plan, batches, batch_size):
            added = _columns(readable, is_classifier=is_classifier, several=several)
            yield pa.RecordBatch.from_arrays([*batch.columns[: len(own)], *added], names=schema.names)

    names = dict(zip(data.columns, renamed.columns, strict=True))
    predicted = renamed.select("*", *plan.select(names)).mapInArrow(add, schema)
    if is_classifier:
        predicted = predicted.withColumn("probability", array_to_vector(functions.col("probability")))
    return predicted.toDF(*data.columns, *schema.names[len(own) :])


def _check_names(data: DataFrame, added: tuple[str, ...]) -> None:
    """Refuse a DataFrame that has a column of an added name, as Spark compares names."""
    matters = data.sparkSession.conf.get("spark.sql.caseSensitive", "false") == "true"
    for name in data.columns:
        if (name if matters else name.lower()) in added:
            raise DataError(f"the DataFrame has a column {name!r} already: drop or rename it before predict")


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


def _num_outputs(parcel: Parcel, plan: ColumnPlan, data: DataFrame) -> int:
    """Find out from one row how many values the network gives for a row; a column's type depends on it."""

    def measure(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for _, readable, _ in outputs(parcel, plan, batches, 1):
            yield pa.RecordBatch.from_pydict({"width": pa.array([readable[0].numel()], "int64")})

    with workers_explained():
        rows = data.select(*plan.select()).limit(1).mapInArrow(measure, "width bigint").collect()
    return int(rows[0].width) if rows else 1
