"""What `fit` is given, as a source of rows: DataFrames, RDDs, paths and tables on disk."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hvdspark import storage
from hvdspark.data import (
    ColumnPlan,
    ColumnsLike,
    FileSource,
    Loader,
    PointLabels,
    RDDSource,
    Source,
    Table,
    TableSource,
    TensorColumn,
    use_driver_python,
)
from hvdspark.errors import ConfigurationError, DataError, UnsupportedError
from hvdspark.masters import PortableFunction

if TYPE_CHECKING:
    from pyspark import RDD
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["PlanTable", "open_source", "open_sources", "portable_column"]

PlanTable = Callable[["DataFrame", "str | None"], ColumnPlan]
"""Decides what a table's columns become, given the name of the column that holds rows back for validation, if any."""

_KNOWN = (
    "a DataFrame; an RDD of DataSet, MultiDataSet, LabeledPoint, (label, vector) pairs or paths; a path of a folder or "
    "a file, or a list of them, saved by DataSet.save or MultiDataSet.save, Parquet, or anything else with loader="
)
_SAVED = ".safetensors"
_TABLE = ".parquet"


def open_sources(
    spark: SparkSession, data: Any, validation: Any, plan: PlanTable, loader: Loader | None
) -> tuple[Source, Source | None]:
    """Return where training and validation rows come from.

    Parameters
    ----------
    spark : SparkSession
        The session.
    data : DataFrame, RDD, path or list of paths
        What is trained on.
    validation : the same, or str, optional
        What is scored after each epoch. Text is the name of a boolean column of the training table, if it has one of
        that name, and a path otherwise: true rows of that column are held back.
    plan : callable
        Decides what the columns of a table become.
    loader : callable, optional
        Reads one file: path -> DataSet or MultiDataSet.

    Raises
    ------
    UnsupportedError
        If there is no such kind of data; the message lists those that there are.
    DataError
        If there is nothing where a path points, or a column cannot serve.
    ConfigurationError
        If a loader is given where no file is loaded.
    """
    if isinstance(validation, str):
        frame = _table(spark, data, loader)
        if frame is not None and validation in frame.columns:
            return TableSource(Table(frame, plan(frame, validation))), None
        if frame is not None and not storage.exists(validation):
            columns = ", ".join(frame.columns)
            raise DataError(f"validation={validation!r} is neither a path nor one of the columns {columns}")
    train = open_source(spark, data, plan, loader=loader)
    if validation is None:
        return train, None
    # A loader is for files: it may serve one of the two only.
    for_validation = None if _is_frame(validation) else loader
    return train, open_source(spark, validation, plan, loader=for_validation)


def open_source(
    spark: SparkSession, data: Any, plan: PlanTable, *, loader: Loader | None = None, points: PointLabels | None = None
) -> Source:
    """Return where rows come from; parameters as of `open_sources`, and `points` as of `RDDSource`."""
    frame = _table(spark, data, loader)
    if frame is not None:
        return TableSource(Table(frame, plan(frame, None)))
    portable = None if loader is None else PortableFunction(loader, "loader")
    if _is_rdd(data):
        return _of_rdd(spark, data, portable, points)
    paths, name = _paths(data)
    _check_files(paths, name, loader)
    return FileSource(spark, paths, portable, name)


def portable_column(given: ColumnsLike) -> ColumnsLike:
    """Return what names a column in a form that can travel: a decode function may stand beside the user's script."""
    if isinstance(given, TensorColumn) and given.decode is not None:
        return dataclasses.replace(given, decode=PortableFunction(given.decode, "TensorColumn.decode"))
    return given if isinstance(given, str | TensorColumn) else list(given)


def _of_rdd(
    spark: SparkSession, rdd: RDD[Any], loader: PortableFunction | None, points: PointLabels | None
) -> RDDSource:
    use_driver_python(spark)
    return RDDSource(rdd, spark, loader=loader, points=points)


def _table(spark: SparkSession, data: Any, loader: Loader | None) -> DataFrame | None:
    """Return the data as a DataFrame, where they are one or lie in Parquet files; else None."""
    if _is_frame(data):
        if loader is not None:
            raise ConfigurationError("loader reads files one by one, and a DataFrame has none: leave it out")
        frame: DataFrame = data
        return frame
    if loader is not None or _is_rdd(data):
        return None
    paths = [data] if isinstance(data, str | os.PathLike) else data
    if not isinstance(paths, Sequence) or not paths or not all(isinstance(path, str | os.PathLike) for path in paths):
        return None
    if all(_is_parquet(os.fspath(path)) for path in paths):
        return spark.read.parquet(*(_absolute(path) for path in paths))
    return None


def _is_parquet(path: str) -> bool:
    """Tell whether a file or folder is Parquet; where its name says so, it is Spark that looks for it."""
    if path.rstrip("/").endswith(_TABLE):
        return True
    return any(name.endswith(_TABLE) for name in storage.list_files(path, recursive=True))


def _paths(data: Any) -> tuple[list[str], str]:
    """Return the files that paths mean, and what messages call them."""
    if isinstance(data, str | os.PathLike):
        path = _absolute(data)
        if not storage.exists(path):
            raise DataError(f"there is no file or folder {path}")
        files = storage.list_files(path)
        return files or [path], f"the folder {path}" if files else f"the file {path}"
    is_list = isinstance(data, Sequence) and not isinstance(data, bytes)
    strange = [each for each in data if not isinstance(each, str | os.PathLike)] if is_list else []
    if not is_list or strange:
        held = f" with a {type(strange[0]).__name__} in it" if strange else ""
        raise UnsupportedError(f"this is a {type(data).__name__}{held}; what can be trained on is {_KNOWN}")
    if not data:
        raise DataError("the list of paths is empty: there is no row to train on")
    return [_absolute(path) for path in data], "the list of files"


def _check_files(paths: list[str], name: str, loader: Loader | None) -> None:
    odd = [path for path in paths if not path.endswith(_SAVED)]
    if loader is None and odd:
        raise DataError(
            f"{name} holds {odd[0]}, which is neither {_SAVED} (DataSet.save) nor, with all others, {_TABLE}: give "
            "loader=, a function from a path to a DataSet, or name the files to be read"
        )


def _absolute(path: str | os.PathLike[str]) -> str:
    # Spark's Java and its workers may run in another folder.
    return str(storage.local_path(path).absolute()) if storage.is_local(path) else os.fspath(path)


def _is_frame(data: Any) -> bool:
    from pyspark.sql import DataFrame

    return isinstance(data, DataFrame)


def _is_rdd(data: Any) -> bool:
    from pyspark import RDD

    return isinstance(data, RDD)
