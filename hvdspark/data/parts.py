"""Writing one file of a staged data set: what a Spark task does with its partition. Needs no Spark."""

import contextlib
import itertools
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hvdspark import storage
from hvdspark.data.columns import ColumnPlan
from hvdspark.data.values import Problem
from hvdspark.errors import StorageError

__all__ = ["FEATURES", "LABELS", "PartResult", "write_part"]

FEATURES, LABELS = "features", "label"
"""Names of the two columns of a staged file."""

_MAX_GROUP_BYTES = 1 << 26  # readers hold two decoded row groups: images of 600 kB must not make groups of 2.4 GB


@dataclass(frozen=True)
class PartResult:
    """What became of one partition: a file, or what is wrong with its rows, or why it could not be written.

    Parameters
    ----------
    partition
        Number of the Spark partition.
    file, rows_per_group, num_bytes, checksum
        The file that was written; the name alone, without the folder.
    feature_width, label_width
        Numbers in a row's features and label; the label's is None where it is one number.
    problems
        What cannot be trained on, one entry a column and kind, counted over the whole partition.
    storage_error
        Why the file could not be written.
    """

    partition: int
    file: str = ""
    rows_per_group: tuple[int, ...] = ()
    num_bytes: int = 0
    checksum: str = ""
    feature_width: int = 0
    label_width: int | None = None
    problems: tuple[Problem, ...] = ()
    storage_error: str = ""

    def to_json(self) -> str:
        """Return the result as text, for Spark to carry."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the result that `to_json` made into text."""
        facts: dict[str, Any] = json.loads(text)
        problems = []
        for problem in facts.pop("problems"):
            widths = problem.pop("widths")
            problems.append(Problem(**problem, widths=None if widths is None else (widths[0], widths[1])))
        return cls(**{**facts, "rows_per_group": tuple(facts["rows_per_group"]), "problems": tuple(problems)})


def write_part(
    batches: "Iterable[pa.RecordBatch]", plan: ColumnPlan, directory: str, partition: int, rows_per_group: int
) -> PartResult | None:
    """Write the rows of one partition as one Parquet file; None where there is no row.

    Row groups are filled across batches, so they do not depend on how Spark cuts them. After the first bad row nothing
    more is written, but the rest is still looked at, so that all bad rows are counted.
    """
    source = (batch for batch in batches if batch.num_rows)
    first = next(source, None)
    if first is None:
        return None
    name = f"part-{partition:05d}.parquet"
    try:
        with contextlib.closing(storage.AtomicWriter(storage.join(directory, name))) as file:
            with contextlib.closing(_GroupWriter(file, rows_per_group)) as groups:
                problems = _write_rows(itertools.chain([first], source), plan, groups)
                if problems:
                    return PartResult(partition, problems=tuple(problems))
                groups.finish()
            file.commit()
            return PartResult(
                partition=partition,
                file=name,
                rows_per_group=tuple(groups.rows_per_group),
                num_bytes=file.tell(),
                checksum=file.checksum,
                feature_width=groups.feature_width,
                label_width=groups.label_width,
            )
    except StorageError as error:
        return PartResult(partition, storage_error=str(error))


def _write_rows(batches: "Iterable[pa.RecordBatch]", plan: ColumnPlan, groups: "_GroupWriter") -> list[Problem]:
    problems: dict[tuple[str, str], Problem] = {}
    widths: list[int | None] = [None, None]  # of features and labels, once known
    seen = 0
    for batch in batches:
        converted = plan.read(batch, feature_width=widths[0], label_width=widths[1])
        for index, array in enumerate((converted.features, converted.labels)):
            if array is not None and array.ndim == 2:
                widths[index] = array.shape[1]
        for problem in converted.problems:
            key = (problem.column, problem.kind)
            before = problems.get(key, replace(problem, count=0, first_row=problem.first_row + seen))
            problems[key] = replace(before, count=before.count + problem.count)
        if not problems and converted.features is not None and converted.labels is not None:
            groups.add(converted.features, converted.labels)
        seen += batch.num_rows
    return list(problems.values())


class _GroupWriter:
    """Fills row groups of equal size across the arrays it is given; owns its buffers and the Parquet writer."""

    def __init__(self, file: storage.AtomicWriter, rows_per_group: int) -> None:
        self.rows_per_group: list[int] = []
        self.feature_width = 0
        self.label_width: int | None = None
        self._file = file
        self._most_rows = rows_per_group
        self._filled = 0
        self._writer: Any = None

    def add(self, features: NDArray[np.float32], labels: NDArray[Any]) -> None:
        if self._writer is None:
            self._open(features, labels)
        start = 0
        while start < len(features):
            count = min(len(self._features) - self._filled, len(features) - start)
            self._features[self._filled : self._filled + count] = features[start : start + count]
            self._labels[self._filled : self._filled + count] = labels[start : start + count]
            self._filled += count
            start += count
            if self._filled == len(self._features):
                self._flush()

    def finish(self) -> None:
        """Write the last, shorter group and the file's end."""
        if self._filled:
            self._flush()
        self._writer.close()

    def close(self) -> None:
        # An unfinished writer would write the file's end when it is collected, into a file that is gone by then.
        if self._writer is not None:
            self._writer.is_open = False

    def _open(self, features: NDArray[np.float32], labels: NDArray[Any]) -> None:
        self.feature_width = features.shape[1]
        self.label_width = labels.shape[1] if labels.ndim == 2 else None
        row_bytes = features.itemsize * features.shape[1] + labels.itemsize * (self.label_width or 1)
        rows = min(self._most_rows, max(1, _MAX_GROUP_BYTES // row_bytes))
        self._features = np.empty((rows, *features.shape[1:]), features.dtype)
        self._labels = np.empty((rows, *labels.shape[1:]), labels.dtype)
        fields = ((FEATURES, self._features), (LABELS, self._labels))
        self._schema = pa.schema([pa.field(name, _arrow_type(array), nullable=False) for name, array in fields])
        # Dictionaries and statistics cost time and help nobody: floats hardly repeat, and rows are never filtered.
        # Uncompressed, for a row group is decoded by every rank in every epoch.
        self._writer = pq.ParquetWriter(
            self._file, self._schema, compression="none", use_dictionary=False, write_statistics=False
        )

    def _flush(self) -> None:
        arrays = [
            _to_arrow(array[: self._filled], field.type)
            for array, field in zip((self._features, self._labels), self._schema, strict=True)
        ]
        self._writer.write_table(pa.table(arrays, schema=self._schema), row_group_size=self._filled)
        self.rows_per_group.append(self._filled)
        self._filled = 0


def _arrow_type(array: NDArray[Any]) -> Any:
    scalar = pa.from_numpy_dtype(array.dtype)
    return scalar if array.ndim == 1 else pa.list_(pa.field("element", scalar, nullable=False), array.shape[1])


def _to_arrow(array: NDArray[Any], arrow_type: Any) -> Any:
    if array.ndim == 1:
        return pa.array(array)
    return pa.FixedSizeListArray.from_arrays(pa.array(array.reshape(-1)), type=arrow_type)
