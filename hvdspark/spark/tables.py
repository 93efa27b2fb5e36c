"""Columns that a network adds to a DataFrame: nothing runs until the result is used, and nothing is shuffled."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from hvdspark.data import Table
from hvdspark.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructField

    Work: TypeAlias = Callable[[Iterator[pa.RecordBatch]], Iterator[tuple[pa.RecordBatch, list[Any]]]]

__all__ = ["add_columns", "case_matters", "check_names"]

_RESULT = "hvdspark_result"


def add_columns(
    table: Table,
    added: Sequence[StructField],
    work: Work,
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

    # Under names of our own, for names may hold dots or come twice.
    renamed = table.frame.toDF(*(f"hvdspark_own_{i}" for i in range(len(table.frame.columns))))
    more = [types.StructField(f"hvdspark_added_{i}", field.dataType) for i, field in enumerate(added)]
    arrow_udf = getattr(functions, "arrow_udf", None)  # from Spark 4.1 on
    found = _by_udf(arrow_udf, table, renamed, more, work) if arrow_udf else _by_map(table, renamed, more, work)
    for field, wanted in zip(more, added, strict=True):
        if wanted.name in vectors:
            found = found.withColumn(field.name, array_to_vector(functions.col(field.name)))
    return found.toDF(*table.frame.columns, *(field.name for field in added))


def _by_udf(arrow_udf: Any, table: Table, renamed: DataFrame, added: Sequence[StructField], work: Work) -> DataFrame:
    """Send what the work looks at to Python, and get the new columns back: Spark keeps all others meanwhile."""
    import pyarrow as pa
    from pyspark.sql import functions, types

    names = [alias for field in table.plan.fields for alias in field.aliases]

    def add(arguments: Iterator[Any]) -> Iterator[pa.Array]:
        batches = (each if isinstance(each, tuple) else (each,) for each in arguments)
        for _, arrays in work(pa.RecordBatch.from_arrays(list(batch), names=names) for batch in batches):
            yield pa.StructArray.from_arrays(arrays, names=[field.name for field in added])

    # Spark reads from here what kind of function it is: only now is it known how many columns there are.
    given: Any = Iterator[tuple[pa.Array, ...]] if len(names) > 1 else Iterator[pa.Array]
    add.__annotations__ = {"arguments": given, "return": Iterator[pa.Array]}
    udf = arrow_udf(add, types.StructType(list(added)))
    # Spark computes a deterministic function anew for each filter and column that it is used in.
    once = udf.asNondeterministic()(*table.plan.select(dict(zip(table.frame.columns, renamed.columns, strict=True))))
    columns = (functions.col(_RESULT).getField(field.name).alias(field.name) for field in added)
    return renamed.withColumn(_RESULT, once).select(*renamed.columns, *columns)


def _by_map(table: Table, renamed: DataFrame, added: Sequence[StructField], work: Work) -> DataFrame:
    """Send whole rows to Python and back, which every version of Spark can."""
    from pyspark.sql import types

    count = len(renamed.columns)
    schema = types.StructType([*renamed.schema.fields, *added])

    def add(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for batch, arrays in work(batches):
            yield pa.RecordBatch.from_arrays([*batch.columns[:count], *arrays], names=schema.names)

    names = dict(zip(table.frame.columns, renamed.columns, strict=True))
    return renamed.select("*", *table.plan.select(names)).mapInArrow(add, schema)


def check_names(data: DataFrame, added: Sequence[str], method: str) -> None:
    """Refuse a DataFrame that has a column of an added name, as Spark compares names."""
    matters = case_matters(data)
    taken = {name if matters else name.lower() for name in added}
    for name in data.columns:
        if (name if matters else name.lower()) in taken:
            raise DataError(f"the DataFrame has a column {name!r} already: drop or rename it before {method}")


def case_matters(data: DataFrame) -> bool:
    """Tell whether Spark takes names that differ in case for different columns."""
    return data.sparkSession.conf.get("spark.sql.caseSensitive", "false") == "true"
