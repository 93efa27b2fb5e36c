"""Rows as bytes: what travels from an RDD's Python workers through Spark into the tasks of a barrier stage.

Arrow's stream format, so that nobody unpickles what a message holds. Rows that are many bytes go in several messages:
the JVM holds each in one array, and Arrow batches of a task are made of whole ones.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from hvdspark.data.fields import Field
from hvdspark.data.filling import group_schema, rows_in_group, to_arrow
from hvdspark.data.problems import Problem
from hvdspark.data.row_groups import decode_column
from hvdspark.data.rows import Rows

__all__ = ["COLUMN", "pack", "unpack"]

COLUMN = "hvdspark_rows"
"""Name of the one column, of type binary."""

_MOST_BYTES = 1 << 22  # Spark puts several of them into one Arrow batch


def pack(source: Iterable[Rows]) -> Iterator[bytes]:
    """Yield rows, or what is wrong with them, as messages."""
    for rows in source:
        facts = {
            "num_rows": rows.num_rows,
            "problems": [asdict(problem) for problem in rows.problems],
            "place": rows.place,
        }
        if not rows.arrays or not rows.num_rows:
            yield _message(pa.schema([]), [], {**facts, "fields": [asdict(field) for field in rows.fields]})
            continue
        schema = group_schema(rows.fields)
        fields = [asdict(field) for field in rows.fields]
        step = rows_in_group(rows.fields, rows.num_rows, _MOST_BYTES)
        for start in range(0, rows.num_rows, step):
            parts = [np.ascontiguousarray(array[start : start + step]) for array in rows.arrays]
            columns = [to_arrow(part, field.type) for part, field in zip(parts, schema, strict=True)]
            yield _message(schema, columns, {**facts, "num_rows": len(parts[0]), "fields": fields})


def unpack(batches: Iterable[Any]) -> Iterator[Rows]:
    """Yield the rows that `pack` was given, from Arrow batches of the one column; their arrays are views of it."""
    for batch in batches:
        for message in batch.column(0):
            yield _rows(message.as_buffer())


def _message(schema: Any, columns: list[Any], facts: dict[str, Any]) -> bytes:
    sink = pa.BufferOutputStream()
    schema = schema.with_metadata({"hvdspark": json.dumps(facts)})
    with pa.ipc.new_stream(sink, schema) as writer:
        if columns:
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    return bytes(sink.getvalue())


def _rows(buffer: Any) -> Rows:
    table = pa.ipc.open_stream(buffer).read_all()
    facts = json.loads(table.schema.metadata[b"hvdspark"])
    fields = tuple(Field(**{**field, "shape": tuple(field["shape"])}) for field in facts["fields"])
    problems = tuple(Problem(**problem) for problem in facts["problems"])
    count = facts["num_rows"]
    if table.num_columns:
        arrays = tuple(decode_column(table.column(field.key), field, count) for field in fields)
    else:
        arrays = tuple(np.empty((0, *field.shape), field.dtype) for field in fields)
    return Rows(count, fields, arrays, problems, place=facts["place"])
