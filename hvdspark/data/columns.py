"""What a table's columns become: decided once on the driver, carried out on Arrow batches by the workers."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvdspark.data.fields import Dtype, Field, Role
from hvdspark.data.problems import Problem
from hvdspark.data.rows import Rows
from hvdspark.data.values import as_mask, read_binary, read_lists, read_scalars
from hvdspark.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame

__all__ = ["ColumnField", "ColumnPlan", "ColumnReader", "Kind", "Table", "column_named"]

Kind = Literal["scalar", "scalars", "array", "vector", "binary"]

_FLAG = "hvdspark_flag"  # prefixed: a user's table may have columns of any name
_SQL_TYPES = {"float32": "float", "int64": "bigint"}


@dataclass(frozen=True)
class ColumnField:
    """How one field of a row is made from columns. Plain data, but for the user's own decode function.

    Parameters
    ----------
    role, index, argument
        As in `Field`.
    columns
        Names of the columns that it is made from.
    kind
        ``scalar``: one number; ``scalars``: one number a column, side by side; ``array``: a column of arrays, ``depth``
        of them in each other; ``vector``: of Spark's vectors; ``binary``: of bytes that `decode` turns into arrays.
    dtype
        What the numbers become; of kind ``binary``: None, what `decode` returns decides.
    depth
        Of kind ``array``.
    shape
        Of one row, where it is known beforehand; None: that of the first row. A flat array may be given any shape.
    decode
        Of kind ``binary``.
    """

    role: Role
    index: int
    columns: tuple[str, ...]
    kind: Kind
    dtype: Dtype | None
    depth: int = 1
    shape: tuple[int, ...] | None = None
    decode: Callable[[bytes], Any] | None = None
    argument: str = ""

    @property
    def name(self) -> str:
        """The columns as messages name them."""
        return ", ".join(self.columns)

    @property
    def aliases(self) -> list[str]:
        """Names of what is selected for it."""
        alias = f"hvdspark_{self.role}_{self.index}"
        return [alias] if len(self.columns) == 1 else [f"{alias}_{number}" for number in range(len(self.columns))]

    def select(self, names: Mapping[str, str]) -> "list[Column]":
        """Return the columns to select; `names` says what they are called where not as planned."""
        pairs = zip(self.columns, self.aliases, strict=True)
        return [self._expression(names.get(name, name)).alias(alias) for name, alias in pairs]

    def read(self, batch: "pa.RecordBatch", shape: tuple[int, ...] | None) -> tuple[NDArray[Any] | None, list[Problem]]:
        """Return the field's array of one batch, or what is wrong; `shape` is that of earlier rows, if any."""
        values, problems = self._read(batch, self.shape if shape is None else shape)
        if values is None or not len(values):
            return values, problems
        if self.role in ("features_mask", "labels_mask"):
            values, problem = as_mask(values, self.name)
            problems = [problem] if problem else []
        elif self.role == "weight" and (values < 0).any():
            problems = [Problem(self.name, "negative", int((values < 0).sum()), int(np.argmax(values < 0)))]
        return (None if problems else values), problems

    def field(self, values: NDArray[Any]) -> Field:
        """Return the field that an array of it belongs to."""
        dtype: Any = values.dtype.name
        return Field(self.role, self.index, self.name, dtype, tuple(values.shape[1:]), self.argument)

    def blank(self) -> NDArray[Any]:
        """Return what one row may hold: `[1, ...]` zeros, ones for a mask.

        Raises
        ------
        DataError
            If its shape is not known before a row is read.
        """
        shape = {"scalar": (), "scalars": (len(self.columns),)}.get(self.kind, self.shape)
        if shape is None or self.dtype is None:
            fix = "" if self.dtype is None else f": say TensorColumn({self.columns[0]!r}, shape=(...))"
            raise DataError(f"the shape of column {self.name!r} is not known before a row is read{fix}")
        is_mask = self.role in ("features_mask", "labels_mask")
        return np.full((1, *shape), is_mask, bool if is_mask else self.dtype)

    def _read(
        self, batch: "pa.RecordBatch", shape: tuple[int, ...] | None
    ) -> tuple[NDArray[Any] | None, list[Problem]]:
        columns = [batch.column(alias) for alias in self.aliases]
        dtype = np.int64 if self.dtype == "int64" else np.float32
        if self.kind == "scalars":
            return self._read_scalars(columns, dtype)
        if self.kind == "scalar":
            values, problem = read_scalars(columns[0], self.name, dtype)
        elif self.kind == "binary":
            assert self.decode is not None
            values, problem = read_binary(columns[0], self.name, self.decode, shape)
        elif shape is not None and len(shape) != self.depth:  # a flat array that is given a shape
            values, problem = read_lists(columns[0], self.name, (math.prod(shape),), dtype=dtype)
            values = None if values is None else values.reshape(len(values), *shape)
        else:
            values, problem = read_lists(columns[0], self.name, shape, dtype=dtype, depth=self.depth)
        return values, [] if problem is None else [problem]

    def _read_scalars(self, columns: list[Any], dtype: type[np.generic]) -> tuple[NDArray[Any] | None, list[Problem]]:
        matrix = np.empty((len(columns[0]), len(columns)), dtype)
        problems = []
        for index, (name, column) in enumerate(zip(self.columns, columns, strict=True)):
            values, problem = read_scalars(column, name, dtype)
            if problem is not None:
                problems.append(problem)
            else:
                matrix[:, index] = values
        return (None if problems else matrix), problems

    def _expression(self, name: str) -> "Column":
        from pyspark.ml.functions import vector_to_array
        from pyspark.sql import functions

        column = column_named(name)
        if self.kind == "vector":
            # vector_to_array fails on a null, with a Java trace; a null that arrives is counted and named.
            return functions.when(column.isNotNull(), vector_to_array(column, "float32"))
        if self.kind == "binary":
            return column
        sql_type = _SQL_TYPES[self.dtype or "float32"]
        if self.kind == "array":
            for _ in range(self.depth):
                sql_type = f"array<{sql_type}>"
        return column.cast(sql_type)


@dataclass(frozen=True)
class ColumnPlan:
    """What all fields of a row are made from: made on the driver by `plan_columns`, carried to the workers.

    Parameters
    ----------
    fields
        The fields in order: features, labels, masks, weight.
    flag
        Name of a boolean column whose true rows are held back for validation; None: there is none.
    """

    fields: tuple[ColumnField, ...]
    flag: str | None = None

    def of(self, role: Role) -> tuple[ColumnField, ...]:
        """Return the fields of a role."""
        return tuple(field for field in self.fields if field.role == role)

    def select(self, names: Mapping[str, str] | None = None) -> "list[Column]":
        """Return the columns to select from the DataFrame, so that `rows` understands what arrives on a worker.

        Their names start with ``hvdspark_``: ``df.select("*", *plan.select())`` keeps the table's own columns too.

        Parameters
        ----------
        names
            What the columns are called in the DataFrame, where that is not what they were planned by.
        """
        known = names or {}
        columns = [column for field in self.fields for column in field.select(known)]
        if self.flag is not None:
            columns.append(column_named(known.get(self.flag, self.flag)).alias(_FLAG))
        return columns

    def blank(self) -> Rows:
        """Return one row as it may be, of zeros, without reading any.

        Raises
        ------
        DataError
            If the shape of a column is not known; the message names it.
        """
        arrays = [field.blank() for field in self.fields]
        fields = tuple(field.field(values) for field, values in zip(self.fields, arrays, strict=True))
        return Rows(1, fields, tuple(arrays))

    def rows(self, batches: "Iterable[pa.RecordBatch]") -> Iterator[Rows]:
        """Convert the Arrow batches of what `select` selects, and say what is wrong with them."""
        reader = ColumnReader(self)
        return (reader.read(batch) for batch in batches if batch.num_rows)


class ColumnReader:
    """Converts the Arrow batches of one partition; the first row decides on shapes that are not known beforehand.

    Parameters
    ----------
    plan
        What was selected from the table.
    """

    def __init__(self, plan: ColumnPlan) -> None:
        self._plan = plan
        self._shapes: list[tuple[int, ...] | None] = [None] * len(plan.fields)

    def read(self, batch: "pa.RecordBatch") -> Rows:
        """Convert one Arrow batch of what `ColumnPlan.select` selects, and say what is wrong with it."""
        arrays, problems = [], list[Problem]()
        for number, field in enumerate(self._plan.fields):
            values, found = field.read(batch, self._shapes[number])
            problems += found
            if values is not None:
                self._shapes[number] = tuple(values.shape[1:])
                arrays.append(values)
        flags = None
        if self._plan.flag is not None:
            flags, problem = read_scalars(batch.column(_FLAG), self._plan.flag, np.int64)
            problems += [problem] if problem else []
        if problems:
            return Rows(batch.num_rows, problems=tuple(problems))
        fields = tuple(field.field(values) for field, values in zip(self._plan.fields, arrays, strict=True))
        return Rows(batch.num_rows, fields, tuple(arrays), flags=None if flags is None else flags.astype(bool))


class Table(NamedTuple):
    """A DataFrame together with what its columns become."""

    frame: "DataFrame"
    plan: ColumnPlan


def column_named(name: str) -> "Column":
    """Return the column of exactly that name."""
    from pyspark.sql import functions

    return functions.col("`" + name.replace("`", "``") + "`")  # quoted: a dot would mean a field of a struct
