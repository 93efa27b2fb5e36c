"""Many small files: listing them, and working on them here or on the executors of a Spark session."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hvdspark import storage
from hvdspark.data.workers import use_driver_python, workers_explained
from hvdspark.errors import ConfigurationError, UnsupportedError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark import RDD
    from pyspark.sql import SparkSession

__all__ = ["Work", "absolute", "as_paths", "is_rdd", "list_paths", "run_over"]

Work = Callable[[Iterator[str]], Iterator[str]]
"""Lines of text in, lines of text out; of a partition, or of everything."""


def list_paths(
    directory: str | os.PathLike[str], *, recursive: bool = False, extensions: Sequence[str] | None = None
) -> list[str]:
    """Return the files of a folder, sorted: paths or URLs that mean the same on every host that reaches them.

    Parameters
    ----------
    directory
        Path or URL.
    recursive
        Look into its folders too.
    extensions
        Only files whose names end so, whatever the case: ``["jpg", "png"]``; None: all.
    """
    found = storage.list_files(absolute(directory), recursive=recursive)
    if extensions is None:
        return found
    if isinstance(extensions, str):
        raise ConfigurationError(f"extensions: a list is needed, [{extensions!r}], not a text")
    endings = tuple("." + each.lower().lstrip(".") for each in extensions)
    return [path for path in found if path.lower().endswith(endings)]


def absolute(path: str | os.PathLike[str]) -> str:
    """Return a path that means the same in another folder; a URL is left as it is."""
    return str(storage.local_path(path).absolute()) if storage.is_local(path) else os.fspath(path)


def is_rdd(given: object) -> bool:
    """Tell whether this is an RDD of Spark."""
    return hasattr(given, "mapPartitionsWithIndex")


def as_paths(files: "Iterable[str | os.PathLike[str]] | RDD[str]") -> "list[str] | RDD[str]":
    """Return absolute paths of a list; an RDD of them is left as it is.

    Raises
    ------
    UnsupportedError
        For a single path, which is as iterable as a list is.
    """
    given: Any = files
    if isinstance(given, str | os.PathLike):
        raise UnsupportedError(f"a list of paths is needed, not {os.fspath(given)!r}: list_paths lists a folder")
    return given if is_rdd(given) else [absolute(path) for path in given]


def run_over(items: "Sequence[str] | RDD[str]", work: Work, spark: "SparkSession | None" = None) -> list[str]:
    """Return what some work makes of lines of text, in their order.

    Parameters
    ----------
    items
        A list, or an RDD.
    work
        Called once for a list, once for each partition on Spark; reads as it goes.
    spark
        A classic or Connect session that the lines of a list are spread over; None: a list is worked on here. An RDD
        has a session of its own.
    """
    given: Any = items
    if is_rdd(given):
        use_driver_python(given)
        with workers_explained():
            found: list[str] = given.mapPartitions(work).collect()
        return found
    if spark is None or not given:
        return list(work(iter(given)))

    def task(batches: "Iterator[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
        import pyarrow as pa

        for line in work(line for batch in batches for line in batch.column(0).to_pylist()):
            yield pa.RecordBatch.from_pydict({"line": [line]})

    use_driver_python(spark)
    with workers_explained():
        rows = spark.createDataFrame([(item,) for item in given], "line string").mapInArrow(task, "line string")
        return [row.line for row in rows.collect()]
