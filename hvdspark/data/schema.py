"""Which columns make which fields: decided from a DataFrame's schema alone, before a row is read."""

import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hvdspark.data.columns import ColumnField, ColumnPlan, Kind
from hvdspark.data.fields import Dtype, Role
from hvdspark.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.types import DataType, StructField

__all__ = ["ColumnsLike", "TensorColumn", "plan_columns", "plan_fields"]

_WORDS: dict[Role, str] = {
    "feature": "features",
    "label": "label",
    "features_mask": "features mask",
    "labels_mask": "labels mask",
    "weight": "weight",
}
_NEEDED: dict[Role, str] = {
    "feature": "a vector, an array of numbers, a number, or binary data with a decode function",
    "label": "a whole number, a float, a boolean, an array of numbers or a vector",
    "features_mask": "an array of 0 and 1, or a boolean",
    "labels_mask": "an array of 0 and 1, or a boolean",
    "weight": "a number",
}


@dataclass(frozen=True)
class TensorColumn:
    """A column as a tensor, where its type alone does not say what is wanted.

    Parameters
    ----------
    column
        The name of a column, or a list of columns of one number each.
    shape
        Of one row: an array or vector is given this shape, and must have as many numbers. None: as it is.
    dtype
        ``"float32"`` or ``"int64"`` (whole numbers only; for embeddings). None: float32 for features; labels by type.
    decode
        For a binary column: turns the bytes of one row into an array, as an image's. It runs on the workers. The dtype
        of what it returns is kept, but that float64 becomes float32, and whole numbers other than uint8 int64.

    Raises
    ------
    ConfigurationError
        Where a value cannot be.
    """

    column: str | Sequence[str]
    shape: tuple[int, ...] | None = None
    dtype: Dtype | None = None
    decode: Callable[[bytes], Any] | None = None

    def __post_init__(self) -> None:
        if self.shape is not None:
            object.__setattr__(self, "shape", tuple(self.shape))
            if not self.shape or any(not isinstance(n, int) or n < 1 for n in self.shape):
                raise ConfigurationError(f"TensorColumn.shape: positive whole numbers are needed, not {self.shape!r}")
        if self.dtype not in (None, "float32", "int64"):
            raise ConfigurationError(f"TensorColumn.dtype: 'float32' or 'int64' is needed, not {self.dtype!r}")
        if self.decode is not None and not callable(self.decode):
            raise ConfigurationError(f"TensorColumn.decode: a function is needed, not {self.decode!r}")
        if self.decode is not None and self.dtype is not None:
            raise ConfigurationError("TensorColumn.dtype cannot act with decode: convert the array inside the function")


ColumnsLike = str | Sequence[str] | TensorColumn
"""What names one field: a column, several columns of one number each, or a `TensorColumn`."""


def plan_columns(
    df: "DataFrame",
    *,
    features_col: ColumnsLike = "features",
    label_col: ColumnsLike | None = "label",
    features_mask_col: ColumnsLike | None = None,
    labels_mask_col: ColumnsLike | None = None,
    weight_col: str | None = None,
    validation_col: str | None = None,
) -> ColumnPlan:
    """Decide from a DataFrame's schema what its features and labels are, for one input and one output.

    Parameters
    ----------
    df
        A classic or Spark Connect DataFrame; no row is read.
    features_col
        The name of a vector column, of an array of numbers, or of one number; a list of columns of one number each; or
        a `TensorColumn`. Arrays may lie in each other, where all rows have the same shape.
    label_col
        The name of a column of whole numbers or booleans (classes), floats, arrays of numbers or vectors; None: none is
        wanted, as for prediction.
    features_mask_col, labels_mask_col
        Columns of 0 and 1 (or booleans) that say which parts of a row count.
    weight_col
        A column of numbers from 0 on: each example's loss is multiplied by its own.
    validation_col
        A boolean column: its true rows are held back for validation.

    Raises
    ------
    DataError
        Where a column is missing, appears twice, or is of a type that is no number.
    ConfigurationError
        Where an option names nothing, or a column twice.
    """
    return plan_fields(
        df,
        feature_cols=[features_col],
        label_cols=[] if label_col is None else [label_col],
        features_mask_cols=[features_mask_col],
        labels_mask_cols=[labels_mask_col],
        weight_col=weight_col,
        validation_col=validation_col,
    )


def plan_fields(
    df: "DataFrame",
    *,
    feature_cols: Sequence[ColumnsLike] | Mapping[str, ColumnsLike],
    label_cols: Sequence[ColumnsLike],
    features_mask_cols: Sequence[ColumnsLike | None] | Mapping[str, ColumnsLike] = (),
    labels_mask_cols: Sequence[ColumnsLike | None] = (),
    weight_col: str | None = None,
    validation_col: str | None = None,
) -> ColumnPlan:
    """Decide from a DataFrame's schema what its inputs and outputs are; `plan_columns` for several of them.

    Parameters
    ----------
    df
        A classic or Spark Connect DataFrame; no row is read.
    feature_cols
        One entry an input, as `features_col` of `plan_columns`: a list gives inputs in order, a dict by argument name.
    label_cols
        One entry an output, in order; none for prediction.
    features_mask_cols, labels_mask_cols
        One entry an input or output, None where it has no mask; a dict where the inputs are a dict.
    weight_col, validation_col
        As of `plan_columns`.

    Raises
    ------
    DataError, ConfigurationError
        As `plan_columns`.
    """
    schema = list(df.schema.fields)
    arguments: list[str] = list(feature_cols) if isinstance(feature_cols, Mapping) else [""] * len(feature_cols)
    inputs = list(feature_cols.values()) if isinstance(feature_cols, Mapping) else list(feature_cols)
    if not inputs:
        raise ConfigurationError("feature_cols: at least one input is needed")
    if isinstance(features_mask_cols, Mapping):
        strange = sorted(features_mask_cols.keys() - set(arguments))
        if strange:
            raise ConfigurationError(f"features_mask_cols: {strange[0]!r} is not one of the inputs {arguments}")
        masks: list[ColumnsLike | None] = [features_mask_cols.get(argument) for argument in arguments]
    else:
        masks = list(features_mask_cols)
    if weight_col is not None and not isinstance(weight_col, str):
        raise ConfigurationError(f"weight_col: the name of a column is needed, not {weight_col!r}")
    wanted: list[tuple[Role, Sequence[ColumnsLike | None]]] = [
        ("feature", inputs),
        ("label", label_cols),
        ("features_mask", masks),
        ("labels_mask", labels_mask_cols),
        ("weight", [weight_col]),
    ]
    fields = [
        _field(schema, role, index, given, arguments)
        for role, entries in wanted
        for index, given in enumerate(entries)
        if given is not None
    ]
    _check_owners(fields, len(inputs), len(label_cols))
    if validation_col is not None:
        _check_flag(_find(schema, validation_col, "validation"))
    return ColumnPlan(tuple(fields), validation_col)


def _check_owners(fields: Iterable[ColumnField], num_inputs: int, num_outputs: int) -> None:
    for field in fields:
        limit = num_inputs if field.role == "features_mask" else num_outputs
        if field.role in ("features_mask", "labels_mask") and num_outputs and field.index >= limit:
            raise ConfigurationError(
                f"the {_WORDS[field.role]} column {field.name!r} masks nothing: there are {num_inputs} inputs and "
                f"{num_outputs} outputs"
            )


def _field(
    schema: "list[StructField]", role: Role, index: int, given: ColumnsLike, arguments: list[str]
) -> ColumnField:
    wanted = given if isinstance(given, TensorColumn) else TensorColumn(given)
    argument = arguments[index] if role in ("feature", "features_mask") and index < len(arguments) else ""
    if not isinstance(wanted.column, str):
        return _scalars(schema, role, index, wanted, argument)
    found = _find(schema, wanted.column, _WORDS[role])
    kind, depth, number = _kind(found.dataType)
    if kind is None or (kind == "binary") != (wanted.decode is not None):
        raise DataError(_wrong_type(found, role, wanted))
    if role == "weight" and kind != "scalar":
        raise DataError(_wrong_type(found, role, wanted))
    columns: tuple[str, ...] = (wanted.column,)
    if kind == "binary":
        return ColumnField(
            role, index, columns, kind, None, shape=wanted.shape, decode=wanted.decode, argument=argument
        )
    dtype = _dtype(role, kind, number, wanted)
    if kind == "scalar":
        if wanted.shape is not None and wanted.shape != (1,):
            raise ConfigurationError(
                f"TensorColumn.shape: column {wanted.column!r} holds one number, not {wanted.shape}"
            )
        # A lone number is an input of width 1; a label of one number has no axis of its own.
        side_by_side = role == "feature" or wanted.shape == (1,)
        return ColumnField(role, index, columns, "scalars" if side_by_side else "scalar", dtype, argument=argument)
    if wanted.shape is not None and depth > 1 and len(wanted.shape) != depth:
        raise ConfigurationError(
            f"TensorColumn.shape: column {wanted.column!r} holds {depth} arrays in each other, a shape of "
            f"{len(wanted.shape)} numbers cannot be theirs"
        )
    return ColumnField(role, index, columns, kind, dtype, depth, wanted.shape, argument=argument)


def _scalars(schema: "list[StructField]", role: Role, index: int, wanted: TensorColumn, argument: str) -> ColumnField:
    names = tuple(wanted.column)
    option = "label_col" if role == "label" else f"{role}_col" if role != "feature" else "features_col"
    if not names or len(set(names)) != len(names):
        raise ConfigurationError(f"{option}: at least one column, and each once, is needed (got {list(names)})")
    if wanted.decode is not None or (wanted.shape is not None and wanted.shape != (len(names),)):
        raise ConfigurationError(
            f"TensorColumn: {len(names)} columns of one number each have no other shape, nor decode"
        )
    numbers = []
    for name in names:
        found = _find(schema, name, _WORDS[role])
        kind, _, number = _kind(found.dataType)
        if kind != "scalar":
            needed = "a number (a list names columns of one number each; name a vector or array column alone, as text)"
            raise DataError(_explained(found, role, needed))
        numbers.append(number)
    whole = "integer" if all(number != "float" for number in numbers) else "float"
    dtype: Dtype = "float32" if wanted.dtype is None else _dtype(role, "scalars", whole, wanted)
    return ColumnField(role, index, names, "scalars", dtype, argument=argument)


def _dtype(role: Role, kind: Kind, number: str, wanted: TensorColumn) -> Dtype:
    if wanted.dtype == "int64" and number == "float":
        raise DataError(
            f"TensorColumn.dtype: column {wanted.column!r} holds floats, and int64 is asked for: cast it in Spark"
        )
    if wanted.dtype is not None:
        return wanted.dtype
    return "int64" if role == "label" and kind == "scalar" and number != "float" else "float32"


def _check_flag(found: "StructField") -> None:
    from pyspark.sql.types import BooleanType

    if not isinstance(found.dataType, BooleanType):
        raise DataError(
            f"validation column {found.name!r} is of type {found.dataType.simpleString()}, a boolean is needed: "
            f"df.withColumn({found.name!r}, <a condition>)"
        )


def _find(fields: "list[StructField]", name: Any, role: str) -> "StructField":
    if not isinstance(name, str):
        raise ConfigurationError(f"{role}: the name of a column is needed, not {name!r}")
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


def _kind(data_type: "DataType") -> tuple[Kind | None, int, str]:
    """Return how a column is read (None: not at all), how many arrays lie in each other, and what its numbers are."""
    from pyspark.ml.linalg import VectorUDT
    from pyspark.mllib.linalg import VectorUDT as OldVectorUDT
    from pyspark.sql import types

    if isinstance(data_type, types.BooleanType | types.IntegralType):
        return "scalar", 0, "integer"
    if isinstance(data_type, types.FloatType | types.DoubleType):
        return "scalar", 0, "float"
    if isinstance(data_type, VectorUDT | OldVectorUDT):
        return "vector", 1, "float"
    if isinstance(data_type, types.BinaryType):
        return "binary", 0, ""
    if isinstance(data_type, types.ArrayType):
        kind, depth, number = _kind(data_type.elementType)
        if kind in ("scalar", "array"):
            return "array", depth + 1, number
    return None, 0, ""


def _wrong_type(field: "StructField", role: Role, wanted: TensorColumn) -> str:
    if wanted.decode is not None:
        return (
            f"{_WORDS[role]} column {field.name!r} is of type {field.dataType.simpleString()}, and decode is for "
            "binary columns: leave it out"
        )
    if field.dataType.simpleString() == "binary":
        return (
            f"{_WORDS[role]} column {field.name!r} is of type binary, a decode function is needed: "
            f"TensorColumn({field.name!r}, decode=<a function from bytes to an array>)"
        )
    return _explained(field, role, _NEEDED[role])


def _explained(field: "StructField", role: Role, needed: str) -> str:
    name, given = field.name, field.dataType.simpleString()
    indexer = f"pyspark.ml.feature.StringIndexer(inputCol={name!r}, outputCol={name + '_index'!r})"
    if given == "string":
        fix = f"index it first: {indexer}" + (", then encode it with OneHotEncoder" if role == "feature" else "")
    elif given.startswith("decimal"):
        fix = f"cast it: df.withColumn({name!r}, df[{name!r}].cast('double'))"
    else:
        fix = "convert it, or name another column"
    return f"{_WORDS[role]} column {name!r} is of type {given}, {needed} is needed: {fix}"
