"""Where rows come from: tables, RDDs and files. All end in the same writer, with the same checks."""

import abc
import copy
import functools
import hashlib
import json
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from hvdspark import storage
from hvdspark.data.columns import ColumnPlan, Table
from hvdspark.data.elements import Loader, PointLabels, element_rows, file_rows
from hvdspark.data.fields import Role
from hvdspark.data.handover import Handover, PartitionReader
from hvdspark.data.packing import COLUMN, pack, unpack
from hvdspark.data.rows import Rows
from hvdspark.errors import StorageError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark import RDD
    from pyspark.sql import SparkSession

__all__ = ["FileSource", "RDDSource", "Source", "TableSource", "Task"]

Task = Callable[[Iterable[Rows], int], list[str]]
"""What is done with the rows of a partition, given its number; returns texts."""


class Source(abc.ABC):
    """Rows that lie in partitions of Spark.

    Laws: `run` hands every example of the source to the task once, in exactly one partition; two sources with the same
    `identity` hold the same rows.
    """

    name: str
    """What messages call it."""
    noun: str = "array"
    """What messages call one of its fields."""
    has_flags: bool = False
    """Whether its rows say which of them are held back for validation."""

    @property
    @abc.abstractmethod
    def spark(self) -> "SparkSession":
        """The session that it belongs to."""

    @property
    def roles(self) -> tuple[Role, ...] | None:
        """The roles of its fields, one each; None: nobody knows before its rows are read."""
        return None

    @abc.abstractmethod
    def run(self, task: Task) -> list[str]:
        """Run a task on every partition, and return what they returned."""

    @abc.abstractmethod
    def hand_over(self, num_partitions: int) -> Handover:
        """Return the source as a DataFrame whose partitions ranks read themselves.

        Parameters
        ----------
        num_partitions
            How many ranks there are. A source that is free to choose has so many partitions; others keep theirs.
        """

    @abc.abstractmethod
    def identity(self) -> str | None:
        """Return what the rows are made from, as a hash; None where that cannot be told."""


class TableSource(Source):
    """The rows of a DataFrame, of a classic or a Spark Connect session.

    Parameters
    ----------
    table
        The DataFrame and what its columns become.
    """

    name = "the DataFrame"
    noun = "column"

    def __init__(self, table: Table) -> None:
        self.table = table
        self.has_flags = table.plan.flag is not None

    @property
    def spark(self) -> "SparkSession":
        """The DataFrame's session."""
        return self.table.frame.sparkSession

    @property
    def roles(self) -> tuple[Role, ...]:
        """The roles that its columns were planned for."""
        return tuple(field.role for field in self.table.plan.fields)

    def run(self, task: Task) -> list[str]:
        """Run a task on every partition of the DataFrame."""
        frame, plan = self.table
        return _map_in_arrow(frame.select(*plan.select()), functools.partial(_run_on_batches, task, plan))

    def hand_over(self, num_partitions: int) -> Handover:
        """Return the columns that are wanted, in the DataFrame's own partitions."""
        del num_partitions
        frame, plan = self.table
        reader = PartitionReader(plan.rows, self.name, self.noun, self.has_flags)
        return Handover(frame.select(*plan.select()), reader)

    def identity(self) -> str | None:
        """Hash the session, the query plan, the versions of the files that it reads, and what columns become."""
        frame, plan = self.table
        files = [_unquoted(file) for file in frame.inputFiles()]
        return _hash("table", _session_name(self.spark), frame.semanticHash(), _versions(files), _facts(plan))


class RDDSource(Source):
    """The elements of an RDD: DataSets, MultiDataSets, labelled points, (label, vector) pairs, or paths of files.

    Parameters
    ----------
    rdd
        Of any of these.
    spark
        Its session.
    loader
        Reads a path; None: what `DataSet.save` and `MultiDataSet.save` wrote.
    points
        What the labels of points are, where nothing but points is wanted.
    """

    name = "the RDD"

    def __init__(
        self, rdd: "RDD[Any]", spark: "SparkSession", *, loader: Loader | None = None, points: PointLabels | None = None
    ) -> None:
        self._rdd = rdd
        self._spark = spark
        self._convert = functools.partial(element_rows, loader=loader, points=points)
        self._loader, self._points = loader, points or ""
        self._origin = f"{rdd.id()}"

    @property
    def spark(self) -> "SparkSession":
        """The session it was given with."""
        return self._spark

    @property
    def rdd(self) -> "RDD[Any]":
        """The RDD."""
        return self._rdd

    def laid_out(self, rdd: "RDD[Any]", layout: str) -> "RDDSource":
        """Return a source of the same elements in other partitions; `layout` says in which, for `identity`."""
        source = copy.copy(self)
        source._rdd, source._origin = rdd, f"{self._origin} {layout}"
        return source

    def run(self, task: Task) -> list[str]:
        """Run a task on every partition of the RDD."""
        convert = self._convert

        def work(partition: int, elements: Iterable[Any]) -> Iterator[str]:
            return iter(task(convert(elements), partition))

        return list(self._rdd.mapPartitionsWithIndex(work).collect())

    def hand_over(self, num_partitions: int) -> Handover:
        """Return the elements as packed rows, converted where they lie, in the RDD's own partitions."""
        del num_partitions
        convert = self._convert
        packed = self._rdd.mapPartitions(lambda elements: ((message,) for message in pack(convert(elements))))
        frame = self._spark.createDataFrame(packed, f"{COLUMN} binary")
        return Handover(frame, PartitionReader(unpack, self.name))

    def identity(self) -> str | None:
        """Hash the session and the number that the RDD has in it."""
        return _hash("rdd", _session_name(self._spark), self._origin, _code(self._loader), self._points)


class FileSource(Source):
    """Files that are loaded one by one on the workers; works under Spark Connect too.

    Parameters
    ----------
    spark
        The session whose workers load them.
    paths
        Paths or URLs that every worker reaches.
    loader
        Reads one; None: what `DataSet.save` and `MultiDataSet.save` wrote.
    name
        What messages call them.
    """

    def __init__(self, spark: "SparkSession", paths: Sequence[str], loader: Loader | None, name: str) -> None:
        self.name = name
        self._spark = spark
        self._paths = list(paths)
        self._loader = loader

    @property
    def spark(self) -> "SparkSession":
        """The session it was given."""
        return self._spark

    def run(self, task: Task) -> list[str]:
        """Run a task on every partition: consecutive files each."""
        numbers = self._spark.range(0, len(self._paths), 1, min(len(self._paths), _num_partitions(self._spark)))
        return _map_in_arrow(numbers, functools.partial(_run_on_files, task, self._paths, self._loader))

    def hand_over(self, num_partitions: int) -> Handover:
        """Return the numbers of the files, consecutive ones in a partition; ranks load the files."""
        numbers = self._spark.range(0, len(self._paths), 1, num_partitions)
        return Handover(numbers, PartitionReader(functools.partial(_read_files, self._paths, self._loader), self.name))

    def identity(self) -> str | None:
        """Hash the names, sizes and times of the files, and the loader."""
        return _hash("files", _versions(self._paths), _code(self._loader))


def _run_on_batches(task: Task, plan: ColumnPlan, batches: "Iterable[pa.RecordBatch]", partition: int) -> list[str]:
    return task(plan.rows(batches), partition)


def _run_on_files(
    task: Task, paths: list[str], loader: Loader | None, batches: "Iterable[pa.RecordBatch]", partition: int
) -> list[str]:
    return task(_read_files(paths, loader, batches), partition)


def _read_files(paths: list[str], loader: Loader | None, batches: "Iterable[pa.RecordBatch]") -> Iterator[Rows]:
    mine = (paths[number] for batch in batches for number in batch.column(0).to_pylist())
    return file_rows(mine, loader)


def _map_in_arrow(frame: Any, work: "Callable[[Iterable[pa.RecordBatch], int], list[str]]") -> list[str]:
    def run(batches: "Iterator[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
        import pyarrow as pa
        from pyspark import TaskContext

        context = TaskContext.get()
        if context is None:
            raise RuntimeError("this runs inside a Spark task only")
        results = work(batches, context.partitionId())
        yield pa.RecordBatch.from_pydict({"result": pa.array(results, "string")})

    return [row["result"] for row in frame.mapInArrow(run, "result string").collect()]


def _num_partitions(spark: "SparkSession") -> int:
    context = getattr(spark, "sparkContext", None)  # a Connect session has none
    return 2 * context.defaultParallelism if context is not None else 64


def _session_name(spark: "SparkSession") -> str:
    context = getattr(spark, "sparkContext", None)
    return str(context.applicationId if context is not None else spark.session_id)  # type: ignore[attr-defined]


def _unquoted(uri: str) -> str:
    return urllib.parse.unquote(uri) if uri.startswith("file:") else uri


def _versions(paths: Sequence[str]) -> list[tuple[str, str]] | None:
    try:
        return [(path, storage.version(path)) for path in sorted(paths)]
    except StorageError:  # the driver cannot look at what only Spark reads: nobody can tell whether it is the same
        return None


def _facts(plan: ColumnPlan) -> list[Any]:
    fields = [
        [f.role, f.index, f.columns, f.kind, f.dtype, f.depth, f.shape, f.argument, _code(f.decode)]
        for f in plan.fields
    ]
    return [plan.flag, *fields]


def _code(function: Callable[..., Any] | None) -> str:
    """Hash a user's function with all that it holds: one that was changed makes other rows."""
    import cloudpickle

    return "" if function is None else hashlib.sha256(cloudpickle.dumps(function)).hexdigest()


def _hash(*facts: Any) -> str | None:
    return None if None in facts else hashlib.sha256(json.dumps(facts).encode()).hexdigest()
