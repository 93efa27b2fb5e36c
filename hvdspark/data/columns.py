"""What features and labels are: decided once on the driver from a DataFrame's schema, carried out on Arrow batches."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvdspark.data.values import Problem, read_lists, read_scalars
from hvdspark.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import Column, DataFrame
    from pyspark.sql.types import DataType, StructField

__all__ = ["ColumnPlan", "ConvertedBatch", "LabelDtype", "Table", "explain", "plan_columns"]

LabelDtype = Literal["int64", "float32"]
Kind = Literal["integer", "float", "boolean", "array", "vector"]

_FEATURES, _LABEL = "hvdspark_features", "hvdspark_label"  # prefixed: a user's table may have columns of any name
_FIXES = {
    "null": "drop those rows (df.na.drop(subset=[{column!r}])) or fill them",
    "not finite": "filter those rows out or replace the values; numbers beyond 3.4e38 do not fit into float32",
    "width": "give every row the same number of values: pad, cut or filter them",
    "empty": "give every row at least one value",
}


@dataclass(frozen=True)
class ConvertedBatch:
    """What a ColumnPlan makes of one Arrow batch; the arrays may lie in Arrow's memory and are not to be written to.

    Parameters
    ----------
    features
        `[b, w] float32`; None where they have a problem.
    labels
        `[b] int64`, `[b] float32` or `[b, k] float32`; None where they have a problem or none were asked for.
    problems
        What cannot be trained on, one entry a column at most.
    """

    features: NDArray[np.float32] | None
    labels: NDArray[Any] | None
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class ColumnPlan:
    """What features and labels are. Plain data: made on the driver by `plan_columns`, carried to the workers.

    Parameters
    ----------
    features
        Names of the columns that make the features.
    features_kind
        ``vector`` or ``array``: one column holds them; ``scalar``: one number a column.
    label
        Name of the label column; None for prediction.
    label_kind
        ``integer`` and ``boolean`` become `[b] int64`, ``float`` becomes `[b] float32`, ``array`` and ``vector`` become
        `[b, k] float32`.
    """

    features: tuple[str, ...]
    features_kind: Literal["vector", "array", "scalar"]
    label: str | None = None
    label_kind: Kind | None = None

    @property
    def feature_names(self) -> str:
        """The feature columns as messages name them."""
        return self.features[0] if len(self.features) == 1 else ", ".join(self.features)

    @property
    def label_dtype(self) -> LabelDtype:
        """What labels become."""
        return "int64" if self.label_kind in ("integer", "boolean") else "float32"

    def select(self, names: Mapping[str, str] | None = None) -> "list[Column]":
        """Return the columns to select from the DataFrame, so that `read` understands what arrives on a worker.

        Their names start with ``hvdspark_``: ``df.select("*", *plan.select())`` keeps the table's own columns too.

        Parameters
        ----------
        names
            What the columns are called in the DataFrame, where that is not what they were planned by.
        """
        known = names or {}
        kind: Kind = "float" if self.features_kind == "scalar" else self.features_kind
        pairs = zip(self.features, self._feature_aliases(), strict=True)
        columns = [_expression(known.get(name, name), kind).alias(alias) for name, alias in pairs]
        if self.label is not None and self.label_kind is not None:
            columns.append(_expression(known.get(self.label, self.label), self.label_kind).alias(_LABEL))
        return columns

    def read(
        self, batch: "pa.RecordBatch", *, feature_width: int | None = None, label_width: int | None = None
    ) -> ConvertedBatch:
        """Convert one Arrow batch of what `select` selects, and say what is wrong with it.

        Parameters
        ----------
        batch
            A batch from ``mapInArrow`` or a barrier task.
        feature_width, label_width
            How long arrays must be, as known from earlier batches; None: as long as the first one.
        """
        if self.features_kind == "scalar":
            features, problems = self._read_scalar_features(batch)
        else:
            features, problem = read_lists(batch.column(_FEATURES), self.features[0], feature_width)
            problems = [] if problem is None else [problem]
        labels: NDArray[Any] | None = None
        if self.label is not None:
            labels, problem = self._read_labels(batch, self.label, label_width)
            problems += [] if problem is None else [problem]
        return ConvertedBatch(features, labels, tuple(problems))

    def convert(
        self, batch: "pa.RecordBatch", *, feature_width: int | None = None, label_width: int | None = None
    ) -> tuple[NDArray[np.float32], NDArray[Any] | None]:
        """Convert one Arrow batch of what `select` selects into features and labels.

        Returns
        -------
        features, labels
            `[b, w] float32`, and `[b] int64`, `[b] float32`, `[b, k] float32` or None.

        Raises
        ------
        DataError
            With the column, what is wrong, in how many rows, and the fix.
        """
        converted = self.read(batch, feature_width=feature_width, label_width=label_width)
        if converted.problems or converted.features is None:
            texts = [explain(one, f"the first is row {one.first_row} of this batch") for one in converted.problems]
            raise DataError("; ".join(texts))
        return converted.features, converted.labels

    def _feature_aliases(self) -> list[str]:
        if self.features_kind == "scalar":
            return [f"{_FEATURES}_{index}" for index in range(len(self.features))]
        return [_FEATURES]

    def _read_scalar_features(self, batch: "pa.RecordBatch") -> tuple[NDArray[np.float32] | None, list[Problem]]:
        matrix = np.empty((batch.num_rows, len(self.features)), dtype=np.float32)
        problems = []
        for index, (name, alias) in enumerate(zip(self.features, self._feature_aliases(), strict=True)):
            values, problem = read_scalars(batch.column(alias), name, np.float32)
            if problem is not None:
                problems.append(problem)
            else:
                matrix[:, index] = values
        return (None if problems else matrix), problems

    def _read_labels(
        self, batch: "pa.RecordBatch", name: str, width: int | None
    ) -> tuple[NDArray[Any] | None, Problem | None]:
        if self.label_kind in ("array", "vector"):
            return read_lists(batch.column(_LABEL), name, width)
        dtype = np.float32 if self.label_kind == "float" else np.int64
        return read_scalars(batch.column(_LABEL), name, dtype)


class Table(NamedTuple):
    """A DataFrame together with what its features and labels are."""

    frame: "DataFrame"
    plan: ColumnPlan


def plan_columns(
    df: "DataFrame", *, features_col: str | Sequence[str] = "features", label_col: str | None = "label"
) -> ColumnPlan:
    """Decide from a DataFrame's schema what its features and labels are; no row is read.

    Parameters
    ----------
    df
        A classic or Spark Connect DataFrame.
    features_col
        The name of a vector column, of an array of numbers, or of one number; or a list of columns of one number each.
    label_col
        The name of a column of whole numbers or booleans (classes), floats, arrays of numbers or vectors; None: none is
        wanted, as for prediction.

    Raises
    ------
    DataError
        Where a column is missing, appears twice, or is of a type that is no number.
    ConfigurationError
        Where `features_col` names nothing, or a column twice.
    """
    fields = list(df.schema.fields)
    label_kind = None if label_col is None else _label_kind(_find(fields, label_col, "label"))
    if isinstance(features_col, str):
        field = _find(fields, features_col, "features")
        kind = _kind(field.dataType)
        if kind is None:
            raise DataError(_wrong_type(field, "features", "a vector, an array of numbers, or a number"))
        if kind == "array" or kind == "vector":
            return ColumnPlan((features_col,), kind, label_col, label_kind)
        return ColumnPlan((features_col,), "scalar", label_col, label_kind)
    names = tuple(features_col)
    if not names or len(set(names)) != len(names):
        raise ConfigurationError(f"features_col: at least one column, and each once, is needed (got {list(names)})")
    for name in names:
        field = _find(fields, name, "features")
        if _kind(field.dataType) not in ("integer", "float", "boolean"):
            needed = "a number (a list names columns of one number each; name a vector or array column alone, as text)"
            raise DataError(_wrong_type(field, "features", needed))
    return ColumnPlan(names, "scalar", label_col, label_kind)


def explain(problem: Problem, where: str) -> str:
    """Return one sentence: the column, what is wrong, in how many rows, where, and the fix."""
    rows = "1 row" if problem.count == 1 else f"{problem.count} rows"
    what = {"null": "nulls", "not finite": "NaN or infinity", "empty": "empty arrays"}.get(problem.kind)
    if problem.widths is not None:
        what = f"arrays of unequal width ({problem.widths[0]} and {problem.widths[1]} values)"
    fix = _FIXES[problem.kind].format(column=problem.column)
    return f"column {problem.column!r} has {what} in {rows} ({where}): {fix}"


def _find(fields: "list[StructField]", name: str, role: str) -> "StructField":
    found = [field for field in fields if field.name == name]
    if len(found) == 1:
        return found[0]
    known = [field.name for field in fields]
    if found:
        raise DataError(f"{role} column {name!r} is there {len(found)} times: rename one with df.toDF(...)")
    lower = {other.casefold(): other for other in known}
    near = difflib.get_close_matches(name.casefold(), list(lower), n=1)
    hint = f"did you mean {lower[near[0]]!r}? " if near else ""
    raise DataError(f"{role} column {name!r} is not there: {hint}The columns are {', '.join(known)}")


def _kind(data_type: "DataType") -> Kind | None:
    from pyspark.ml.linalg import VectorUDT
    from pyspark.mllib.linalg import VectorUDT as OldVectorUDT
    from pyspark.sql import types

    if isinstance(data_type, types.BooleanType):
        return "boolean"
    if isinstance(data_type, types.IntegralType):
        return "integer"
    if isinstance(data_type, types.FloatType | types.DoubleType):
        return "float"
    if isinstance(data_type, VectorUDT | OldVectorUDT):
        return "vector"
    if isinstance(data_type, types.ArrayType) and _kind(data_type.elementType) in ("integer", "float"):
        return "array"
    return None


def _label_kind(field: "StructField") -> Kind:
    kind = _kind(field.dataType)
    if kind is None:
        raise DataError(
            _wrong_type(field, "label", "a whole number, a float, a boolean, an array of numbers or a vector")
        )
    return kind


def _wrong_type(field: "StructField", role: str, needed: str) -> str:
    name, given = field.name, field.dataType.simpleString()
    indexer = f"pyspark.ml.feature.StringIndexer(inputCol={name!r}, outputCol={name + '_index'!r})"
    if given == "string":
        fix = f"index it first: {indexer}" + ("" if role == "label" else ", then encode it with OneHotEncoder")
    elif given.startswith("decimal"):
        fix = f"cast it: df.withColumn({name!r}, df[{name!r}].cast('double'))"
    else:
        fix = "convert it, or name another column"
    return f"{role} column {name!r} is of type {given}, {needed} is needed: {fix}"


def _expression(name: str, kind: Kind) -> "Column":
    from pyspark.ml.functions import vector_to_array
    from pyspark.sql import functions

    column = functions.col("`" + name.replace("`", "``") + "`")  # quoted: a dot would mean a field of a struct
    if kind == "vector":
        # vector_to_array fails on a null, with a Java trace; a null that arrives is counted and named.
        return functions.when(column.isNotNull(), vector_to_array(column, "float32"))
    types = {"array": "array<float>", "float": "float", "integer": "bigint", "boolean": "bigint"}
    return column.cast(types[kind])
