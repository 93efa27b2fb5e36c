"""Filling row groups of equal size from rows that come in pieces of any size, and their form in Arrow."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from hvdspark.data.fields import Field

__all__ = ["GroupFiller", "group_schema", "rows_in_group", "to_arrow"]

_MAX_GROUP_BYTES = 1 << 23  # readers hold the rows of 32 groups: images of 600 kB must not make that 5 GB


class GroupFiller:
    """Fills row groups of equal size across the arrays it is given; owns its buffers.

    Parameters
    ----------
    fields
        What a row consists of.
    most_rows
        Rows of a group, at most; fewer where they would be more than 8 MiB.
    write
        Is given each group as a `pyarrow.RecordBatch` of `group_schema`, valid during the call.
    """

    def __init__(self, fields: tuple[Field, ...], most_rows: int, write: Callable[[Any], object]) -> None:
        self.rows_per_group: list[int] = []
        self.fields = fields
        rows = rows_in_group(fields, most_rows)
        self._buffers = [np.empty((rows, *field.shape), field.dtype) for field in fields]
        self._filled = 0
        self._schema = group_schema(fields)
        self._write = write

    def add(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Copy rows: `[n, *field.shape]` of each field."""
        start, stop, size = 0, len(arrays[0]), len(self._buffers[0])
        while start < stop:
            count = min(size - self._filled, stop - start)
            for buffer, array in zip(self._buffers, arrays, strict=True):
                buffer[self._filled : self._filled + count] = array[start : start + count]
            self._filled += count
            start += count
            if self._filled == size:
                self._flush()

    def finish(self) -> None:
        """Write the last, shorter group."""
        if self._filled:
            self._flush()

    def _flush(self) -> None:
        arrays = [
            to_arrow(buffer[: self._filled], field.type)
            for buffer, field in zip(self._buffers, self._schema, strict=True)
        ]
        self._write(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        self.rows_per_group.append(self._filled)
        self._filled = 0


def rows_in_group(fields: Sequence[Field], most_rows: int, most_bytes: int | None = None) -> int:
    """Return the rows of a group: `most_rows`, or what `most_bytes` (8 MiB) hold, but at least one."""
    row_bytes = sum(np.dtype(field.dtype).itemsize * field.num_values for field in fields)
    return min(most_rows, max(1, (most_bytes or _MAX_GROUP_BYTES) // row_bytes))


def group_schema(fields: Sequence[Field]) -> Any:
    """Return the Arrow schema of row groups: a column a field, an array's numbers as bytes, without nulls."""
    return pa.schema([pa.field(field.key, _arrow_type(field), nullable=False) for field in fields])


def _arrow_type(field: Field) -> Any:
    # A row's numbers as one value of so many bytes: lists cost a reader two levels for each number. Booleans as bytes:
    # Arrow's own are bits, which numpy has no view of.
    if field.shape:
        return pa.binary(np.dtype(field.dtype).itemsize * field.num_values)
    return pa.uint8() if field.dtype == "bool" else pa.from_numpy_dtype(np.dtype(field.dtype))


def to_arrow(array: NDArray[Any], arrow_type: Any) -> Any:
    """Return the Arrow column of a contiguous `[rows, *shape]` array, without a copy."""
    values = array.view(np.uint8) if array.dtype == np.bool_ else array
    if array.ndim == 1:
        return pa.array(values)
    return pa.Array.from_buffers(arrow_type, len(values), [None, pa.py_buffer(values)])
