"""Statistics of features and labels, wherever the data lie: here, in files, in an RDD, in a DataFrame.

On Spark every partition is measured where it is, and the results are merged in two levels, each in the order of the
partitions: the driver gets a few, however many partitions there are, and the same data give the same bits.
"""

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from hvdspark.data.columns import ColumnReader
from hvdspark.data.dataset import DataSet
from hvdspark.data.distribute import absolute, is_rdd, list_paths, run_over
from hvdspark.data.repartition import lay_out
from hvdspark.data.schema import plan_columns
from hvdspark.data.statistics import Statistics
from hvdspark.data.workers import use_driver_python, workers_explained
from hvdspark.errors import ConfigurationError, DataError, HvdsparkError, StorageError, UnsupportedError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["Measured", "Measurement"]

_NUM_MERGERS = 8  # tasks of the second level
_ERRORS: dict[str, type[HvdsparkError]] = {each.__name__: each for each in (DataError, StorageError, UnsupportedError)}


@dataclass(frozen=True)
class Measured:
    """Statistics of features, and of labels where they were asked for; None: of no example."""

    features: Statistics | None = None
    labels: Statistics | None = None

    def merged(self, other: Self) -> "Measured":
        """Return the statistics of both.

        Raises
        ------
        DataError
            Where shapes differ; it says whose.
        """
        return Measured(
            _merged("features", self.features, other.features), _merged("labels", self.labels, other.labels)
        )

    def to_line(self) -> str:
        """Return all numbers as a line of text; `from_line` takes it back to the bit."""
        parts = {"features": self.features, "labels": self.labels}
        return json.dumps({name: part and part.facts() for name, part in parts.items()})

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Make one of what `to_line` returned, or raise the error that a worker wrote instead."""
        facts = json.loads(line)
        if "error" in facts:
            raise _ERRORS[facts["error"]](facts["text"])
        return cls(**{name: part and Statistics.from_facts(part) for name, part in facts.items()})


@dataclass(frozen=True)
class Measurement:
    """What is to be measured; plain data, carried to the workers.

    Parameters
    ----------
    feature_axis
        None: every number of an example is a feature of its own. Else the axis of the features (0 is that of the
        examples); all others are counted through.
    with_labels
        Whether labels are measured too, every number of a label on its own.
    """

    feature_axis: int | None
    with_labels: bool

    def measure(
        self, data: Any, *, features_col: str | Sequence[str], label_col: str, spark: "SparkSession | None"
    ) -> Measured:
        """Measure all data: what `Normalizer.fit` takes.

        Raises
        ------
        DataError
            Where there is no example, or one that cannot be measured.
        """
        if hasattr(data, "mapInArrow"):
            lines = self._lines_of_frame(data, features_col, label_col)
        elif is_rdd(data):
            lines = self._lines_of_rdd(data)
        else:
            items = _items(data)
            if spark is not None and not all(isinstance(item, str) for item in items):
                raise ConfigurationError("spark: only files are measured by workers; data in memory are measured here")
            lines = run_over(items, self._lines, spark) if spark is not None else list(self._lines(iter(items)))
        found = _sum(lines)
        if found.features is None:
            raise DataError("there is no example to fit on")
        return found

    def of(self, data: DataSet) -> Measured:
        """Measure examples; masked parts do not count."""
        if self.with_labels and data.labels is None:
            raise DataError("fit_labels=True needs labels, and some examples have none")
        if not len(data):
            return Measured()
        features = _measured("features", data.features, data.features_mask, self.feature_axis)
        labels = _measured("labels", data.labels, data.labels_mask, None) if self.with_labels else None
        return Measured(features, labels)

    def _lines(self, items: Iterator[Any]) -> Iterator[str]:
        """Return one line: the statistics of DataSets or of files of them, or what is wrong with one."""
        total = Measured()
        try:
            for item in items:
                data = DataSet.load(item) if isinstance(item, str) else item
                if not isinstance(data, DataSet):
                    raise UnsupportedError(f"a DataSet or the path of one is needed, not a {type(data).__name__}")
                total = total.merged(self.of(data))
        except tuple(_ERRORS.values()) as error:
            yield _error_line(error)
            return
        yield total.to_line()

    def _lines_of_rdd(self, rdd: Any) -> list[str]:
        def partial(partition: int, items: Iterable[Any]) -> Iterator[tuple[int, str]]:
            return ((partition, line) for line in self._lines(iter(items)))

        def targets(_: int, pairs: Iterable[tuple[int, str]]) -> Iterator[tuple[int, int, tuple[int, str]]]:
            return ((partition % _NUM_MERGERS, partition, (partition, line)) for partition, line in pairs)

        use_driver_python(rdd)
        with workers_explained():
            partials = lay_out(rdd.mapPartitionsWithIndex(partial), _NUM_MERGERS, targets)
            return [line for _, line in sorted(partials.mapPartitions(_merge_pairs).collect())]

    def _lines_of_frame(self, df: "DataFrame", features_col: str | Sequence[str], label_col: str) -> list[str]:
        from pyspark.sql import functions

        plan = plan_columns(df, features_col=features_col, label_col=label_col if self.with_labels else None)

        def examples(batches: "Iterator[pa.RecordBatch]") -> Iterator[DataSet]:
            reader = ColumnReader(plan)
            for batch in batches:
                if batch.num_rows:
                    yield DataSet(*reader.read(batch).checked().arrays)

        def partial(batches: "Iterator[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
            from pyspark import TaskContext

            context = TaskContext.get()
            assert context is not None
            yield from _as_batches((context.partitionId(), line) for line in self._lines(examples(batches)))

        def merge(batches: "Iterator[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
            pairs = ((row["partition"], row["line"]) for batch in batches for row in batch.to_pylist())
            yield from _as_batches(_merge_pairs(pairs))

        use_driver_python(df.sparkSession)
        schema = "partition int, line string"
        partials = df.select(*plan.select()).mapInArrow(partial, schema)
        mixed = partials.repartition(_NUM_MERGERS, functions.col("partition") % _NUM_MERGERS)
        with workers_explained():
            rows = mixed.sortWithinPartitions("partition").mapInArrow(merge, schema).collect()
        return [row.line for row in sorted(rows, key=lambda row: row.partition)]


def _items(data: Any) -> list[Any]:
    """Return data that lie here, or in files, as a list of DataSets or absolute paths."""
    if isinstance(data, str | os.PathLike):
        return list_paths(data, recursive=True, extensions=["safetensors"]) or [absolute(data)]
    if isinstance(data, DataSet):
        return [data]
    if isinstance(data, list | tuple):
        return [absolute(each) if isinstance(each, str | os.PathLike) else each for each in data]
    return [DataSet(data)]  # an array or a tensor; anything else is refused there, by its type


def _measured(name: str, part: Any, mask: Any, axis: int | None) -> Statistics:
    values, keep = _as_array(part), None
    if mask is not None:
        marks = _as_array(mask)
        if marks.shape != values.shape[: marks.ndim]:
            raise DataError(f"{name}_mask of shape {list(marks.shape)} does not fit {name} {list(values.shape)}")
        keep = np.broadcast_to(marks.reshape(*marks.shape, *[1] * (values.ndim - marks.ndim)) != 0, values.shape)
    try:
        if axis is None:
            return Statistics.of(values, keep)
        place = axis + values.ndim if axis < 0 else axis
        if not 0 < place < values.ndim:
            raise DataError(f"feature_axis={axis} is none of the features' axes in arrays of {list(values.shape)}")
        width = values.shape[place]
        flat = [None if each is None else np.moveaxis(each, place, -1).reshape(-1, width) for each in (values, keep)]
        assert flat[0] is not None
        return Statistics.of(flat[0], flat[1]).reshaped((*[1] * (place - 1), width, *[1] * (values.ndim - place - 1)))
    except DataError as error:
        raise DataError(f"{name}: {error}") from None


def _as_array(part: Any) -> NDArray[Any]:
    """Return an array, or a tensor's numbers as one."""
    if isinstance(part, np.ndarray):
        return part
    tensor = part.detach().cpu()
    array: NDArray[Any] = (tensor.float() if tensor.is_floating_point() and tensor.itemsize < 4 else tensor).numpy()
    return array


def _merged(name: str, one: Statistics | None, other: Statistics | None) -> Statistics | None:
    if one is None or other is None:
        return other if one is None else one
    try:
        return one.merged(other)
    except DataError as error:
        raise DataError(f"{name}: {error}") from None


def _sum(lines: Iterable[str]) -> Measured:
    total = Measured()
    for line in lines:
        total = total.merged(Measured.from_line(line))
    return total


def _error_line(error: BaseException) -> str:
    return json.dumps({"error": type(error).__name__, "text": str(error)})


def _merge_pairs(pairs: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Merge lines as they come; the number of the first partition stands for all."""
    first, total = -1, Measured()
    try:
        for partition, line in pairs:
            first = partition if first < 0 else first
            total = total.merged(Measured.from_line(line))
    except tuple(_ERRORS.values()) as error:
        yield first, _error_line(error)
        return
    if first >= 0:
        yield first, total.to_line()


def _as_batches(pairs: Iterable[tuple[int, str]]) -> "Iterator[pa.RecordBatch]":
    import pyarrow as pa

    for partition, line in pairs:
        yield pa.RecordBatch.from_pydict({"partition": pa.array([partition], pa.int32()), "line": [line]})
