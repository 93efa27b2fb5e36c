"""Columns that a network adds to a DataFrame: nothing runs until the result is used, and nothing is shuffled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hvdspark.data import Table
from hvdspark.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructField

__all__ = ["add_columns", "case_matters", "check_names"]


def add_columns(
    table: Table,
    added: Sequence[StructField],
    work: Callable[[Iterator[pa.RecordBatch]], Iterator[tuple[pa.RecordBatch, list[Any]]]],
    *,
    vectors: Sequence[str] = (),
) -> DataFrame:
    """Return a DataFrame with all its columns and more.

    Parameters
    ----------
    table
        The DataFrame, and what is selected for the work.
    added
        The new columns.
    work
        Runs on the workers: yields each Arrow batch that has rows, with the arrays of the new columns.
    vectors
        Names of new columns of arrays that become vectors of pyspark.ml.
    """
    from pyspark.ml.functions import array_to_vector
    from pyspark.sql import functions, types

    data, plan = table
    # Under names of our own: mapInArrow looks columns up by name, which fails where names hold dots or come twice.
    own = [
        types.StructField(f"hvdspark_own_{i}", field.dataType, field.nullable, field.metadata)
        for i, field in enumerate(data.schema.fields)
    ]
    schema = types.StructType([*own, *added])
    renamed = data.toDF(*(field.name for field in own))

    def add(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for batch, arrays in work(batches):
            yield pa.RecordBatch.from_arrays([*batch.columns[: len(own)], *arrays], names=schema.names)

    names = dict(zip(data.columns, renamed.columns, strict=True))
    found = renamed.select("*", *plan.select(names)).mapInArrow(add, schema)
    for name in vectors:
        found = found.withColumn(name, array_to_vector(functions.col(name)))
    return found.toDF(*data.columns, *(field.name for field in added))


def check_names(data: DataFrame, added: Sequence[str], method: str) -> None:
    """Refuse a DataFrame that has a column of an added name, as Spark compares names."""
    matters = case_matters(data)
    for name in data.columns:
        if (name if matters else name.lower()) in added:
            raise DataError(f"the DataFrame has a column {name!r} already: drop or rename it before {method}")


def case_matters(data: DataFrame) -> bool:
    """Tell whether Spark takes names that differ in case for different columns."""
    return data.sparkSession.conf.get("spark.sql.caseSensitive", "false") == "true"
