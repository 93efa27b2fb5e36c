"""Prediction on Spark: the network goes to the rows, partition by partition, and adds columns to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hvdspark.data import ColumnPlan
from hvdspark.errors import ConfigurationError, DataError
from hvdspark.network import Network
from hvdspark.spark.batches import outputs

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

__all__ = ["predict"]

_ADDED = ("prediction", "probability")


def predict(network: Network, plan: ColumnPlan, data: DataFrame, batch_size: int) -> DataFrame:
    """Add a network's predictions to a DataFrame; nothing runs until the result is used.

    Parameters
    ----------
    network : Network
        A class loss gives `prediction` (the class index as a double) and `probability` (a vector); others give
        `prediction` alone: a double, or an array of doubles where the network has several outputs.
    plan : ColumnPlan
        Which columns are features.
    data : DataFrame
        Its columns are all kept.
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
    taken = [name for name in _ADDED[: 2 if network.is_classifier else 1] if name in data.columns]
    if taken:
        raise DataError(f"the DataFrame has a column {taken[0]!r} already: drop or rename it before predict")
    network.check_portable()
    several = not network.is_classifier and _num_outputs(network, plan, data) > 1
    doubles = types.ArrayType(types.DoubleType())
    schema = types.StructType(
        [*data.schema.fields, types.StructField("prediction", doubles if several else types.DoubleType())]
    )
    if network.is_classifier:
        schema = schema.add("probability", doubles)
    own = len(data.columns)

    def add(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for batch, readable, _ in outputs(network, plan, batches, batch_size):
            columns = [*batch.columns[:own], *_columns(readable, is_classifier=network.is_classifier, several=several)]
            names = [*batch.schema.names[:own], *_ADDED[: len(columns) - own]]
            yield pa.RecordBatch.from_arrays(columns, names=names)

    predicted = data.select("*", *plan.select()).mapInArrow(add, schema)
    if not network.is_classifier:
        return predicted
    return predicted.withColumn("probability", array_to_vector(functions.col("probability")))


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


def _num_outputs(network: Network, plan: ColumnPlan, data: DataFrame) -> int:
    """Find out from one row how many values the network gives for a row; a column's type depends on it."""

    def measure(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for _, readable, _ in outputs(network, plan, batches, 1):
            yield pa.RecordBatch.from_pydict({"width": pa.array([readable[0].numel()], "int64")})

    rows = data.select(*plan.select()).limit(1).mapInArrow(measure, "width bigint").collect()
    return int(rows[0].width) if rows else 1
