"""What a schema must hold: columns that are read are there and of a type that fits, names that are added are free."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pyspark.ml.linalg import VectorUDT
from pyspark.sql import types

from hvdspark.errors import DataError
from hvdspark.network import Network

if TYPE_CHECKING:
    from hvdspark.ml.params import ModelParams

__all__ = ["check_added", "check_read", "check_trained_on", "position"]


def position(names: Sequence[str], name: str, *, case_sensitive: bool) -> int:
    """Return where a column stands among others, -1 where it does not.

    Raises
    ------
    DataError
        If several columns have the name.
    """
    found = [i for i, each in enumerate(names) if _same(each, name, case_sensitive=case_sensitive)]
    if len(found) > 1:
        raise DataError(f"there are {len(found)} columns named {name!r}: rename all but one of them")
    return found[0] if found else -1


def check_read(schema: types.StructType, features: Any, *, case_sensitive: bool) -> None:
    """Refuse a schema without the columns of features, or with such of a type that no network takes."""
    if isinstance(features, str):
        kind = _type_of(schema, "featuresCol", features, case_sensitive=case_sensitive)
        if not isinstance(kind, VectorUDT) and not _is_numbers(kind):
            raise DataError(
                f"featuresCol: the column {features!r} is {kind.simpleString()}, and a vector, an array of numbers or "
                "a number is needed: assemble or index it first, or name columns of numbers in featuresCols"
            )
        return
    if not features:
        raise DataError("featuresCols is empty: name at least one column of numbers")
    for name in features:
        kind = _type_of(schema, "featuresCols", name, case_sensitive=case_sensitive)
        if not _is_number(kind):
            raise DataError(
                f"featuresCols: the column {name!r} is {kind.simpleString()}, and a number is needed: index it first "
                "(StringIndexer), or give vectors and arrays by featuresCol"
            )


def check_trained_on(
    schema: types.StructType, *, label: str, weight: str | None, validation: str | None, case_sensitive: bool
) -> None:
    """Refuse a schema without the columns of labels, weights or held back rows, or with such of another type."""
    kind = _type_of(schema, "labelCol", label, case_sensitive=case_sensitive)
    if isinstance(kind, types.StringType):
        raise DataError(f"labelCol: the column {label!r} is a string: index it first with StringIndexer")
    if not isinstance(kind, VectorUDT) and not _is_numbers(kind):
        raise DataError(f"labelCol: the column {label!r} is {kind.simpleString()}, and a number is needed")
    if weight is not None:
        kind = _type_of(schema, "weightCol", weight, case_sensitive=case_sensitive)
        if not _is_number(kind):
            raise DataError(f"weightCol: the column {weight!r} is {kind.simpleString()}, and a number is needed")
    if validation is not None:
        kind = _type_of(schema, "validationIndicatorCol", validation, case_sensitive=case_sensitive)
        if not isinstance(kind, types.BooleanType):
            raise DataError(
                f"validationIndicatorCol: the column {validation!r} is {kind.simpleString()}, and a boolean is needed: "
                f"give (column > 0), say"
            )


def check_added(
    schema: types.StructType, network: Network, params: ModelParams, *, case_sensitive: bool, num_outputs: int = 1
) -> types.StructType:
    """Return a schema with the columns that a model adds; refuse names that are taken."""
    several = not network.is_classifier and num_outputs > 1
    double = types.DoubleType()
    added: list[tuple[str, str, types.DataType]] = [
        ("predictionCol", params.getPredictionCol(), types.ArrayType(double) if several else double)
    ]
    if network.is_classifier:
        added.append(("probabilityCol", params.getProbabilityCol(), VectorUDT()))
    fields = list(schema.fields)
    for param, name, kind in added:
        if not name:
            continue
        if any(_same(each.name, name, case_sensitive=case_sensitive) for each in fields):
            raise DataError(
                f"{param}: there is a column {name!r} already: set {param} to another name, or to '' to leave it out"
            )
        fields.append(types.StructField(name, kind))
    return types.StructType(fields)


def _type_of(schema: types.StructType, param: str, name: str, *, case_sensitive: bool) -> types.DataType:
    found = position(schema.names, name, case_sensitive=case_sensitive)
    if found < 0:
        raise DataError(f"{param}: there is no column {name!r}; there are {', '.join(schema.names) or 'none'}")
    return schema.fields[found].dataType


def _same(one: str, other: str, *, case_sensitive: bool) -> bool:
    return one == other if case_sensitive else one.lower() == other.lower()


def _is_number(kind: types.DataType) -> bool:
    return isinstance(kind, types.NumericType | types.BooleanType)


def _is_numbers(kind: types.DataType) -> bool:
    while isinstance(kind, types.ArrayType):
        kind = kind.elementType
    return _is_number(kind)
