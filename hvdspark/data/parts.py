"""Writing the files of a staged data set: what a Spark task does with its partition. Needs no Spark."""

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol, Self

import pyarrow.parquet as pq
from numpy.typing import NDArray

from hvdspark import storage
from hvdspark.data.fields import Field
from hvdspark.data.filling import GroupFiller, group_schema
from hvdspark.data.inspection import Inspection
from hvdspark.data.manifest import part_name
from hvdspark.data.problems import Problem
from hvdspark.data.rows import Rows
from hvdspark.errors import StorageError

__all__ = ["PartResult", "RowWriter", "write_parts", "write_rows"]


@dataclass(frozen=True)
class PartResult:
    """What became of the rows of one partition: a file, or what is wrong with them, or why they could not be written.

    Parameters
    ----------
    partition
        Number of the Spark partition.
    place
        Which of the data sets the file belongs to: 0 for training, 1 for validation.
    file, rows_per_group, num_bytes, checksum
        The file that was written; the name alone, without the folder.
    fields
        What its rows consist of.
    problems
        What cannot be trained on, one entry a column and kind, counted over the whole partition.
    storage_error
        Why the file could not be written.
    """

    partition: int
    place: int = 0
    file: str = ""
    rows_per_group: tuple[int, ...] = ()
    num_bytes: int = 0
    checksum: str = ""
    fields: tuple[Field, ...] = ()
    problems: tuple[Problem, ...] = ()
    storage_error: str = ""

    @property
    def num_rows(self) -> int:
        """Rows of the file."""
        return sum(self.rows_per_group)

    def to_json(self) -> str:
        """Return the result as text, for Spark to carry."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the result that `to_json` made into text."""
        facts: dict[str, Any] = json.loads(text)
        facts["rows_per_group"] = tuple(facts["rows_per_group"])
        facts["fields"] = tuple(Field(**{**field, "shape": tuple(field["shape"])}) for field in facts["fields"])
        facts["problems"] = tuple(Problem(**problem) for problem in facts["problems"])
        return cls(**facts)


def write_parts(source: Iterable[Rows], places: Sequence[str], partition: int, rows_per_group: int) -> list[PartResult]:
    """Write the rows of one partition as Parquet files; nothing where there is no row.

    Row groups are filled across what the source yields, so they do not depend on how Spark cuts it. After the first bad
    row nothing more is written, but the rest is still looked at, so that all bad rows are counted.

    Parameters
    ----------
    source
        The rows.
    places
        The folder of the training data, and that of the validation data where rows carry flags.
    partition
        Number of the partition: it gives the files their name.
    rows_per_group
        Rows of a row group, at most.
    """
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(contextlib.closing(_PartWriter(folder, partition, rows_per_group))) for folder in places
        ]
        try:
            problems = write_rows(source, writers)
            if problems:
                return [PartResult(partition, problems=tuple(problems))]
            return [
                replace(result, partition=partition, place=place)
                for place, writer in enumerate(writers)
                if (result := writer.commit()) is not None
            ]
        except StorageError as error:
            return [PartResult(partition, storage_error=str(error))]


class RowWriter(Protocol):
    """Takes rows that were found good."""

    def add(self, fields: tuple[Field, ...], arrays: Sequence[NDArray[Any]]) -> None:
        """Take some rows, of the same fields each time: `[n, *field.shape]` arrays, which are not kept."""
        ...


def write_rows(source: Iterable[Rows], writers: Sequence[RowWriter]) -> list[Problem]:
    """Give the rows of a partition to writers, and return what is wrong with them, counted over all of them.

    After the first bad row no writer is given anything more.

    Parameters
    ----------
    source
        The rows.
    writers
        One for all rows; or two where rows carry flags: for those to train on, and for those held back.
    """
    inspection = Inspection()
    for rows in inspection.passing(source):
        for writer, arrays in zip(writers, _shared_out(rows, len(writers)), strict=True):
            writer.add(inspection.fields, arrays)
    return inspection.problems


def _shared_out(rows: Rows, num_places: int) -> Iterator[Sequence[NDArray[Any]]]:
    if num_places == 1:
        yield rows.arrays
        return
    assert rows.flags is not None
    for flags in (~rows.flags, rows.flags):
        yield [array[flags] for array in rows.arrays]


class _PartWriter:
    """One file in the making; it appears when it is committed, and not at all where it has no row."""

    def __init__(self, folder: str, partition: int, rows_per_group: int) -> None:
        self._folder = folder
        self._name = part_name(partition)
        self._most_rows = rows_per_group
        self._file: storage.AtomicWriter | None = None
        self._groups: GroupFiller | None = None
        self._parquet: Any = None
        self._partition = partition

    def add(self, fields: tuple[Field, ...], arrays: Sequence[NDArray[Any]]) -> None:
        if not len(arrays[0]):
            return
        if self._groups is None:
            subfolder, _, _ = self._name.rpartition("/")
            if subfolder:
                storage.make_folder(storage.join(self._folder, subfolder))
            self._file = storage.AtomicWriter(storage.join(self._folder, self._name))
            # Dictionaries and statistics cost time and help nobody: floats hardly repeat, and rows are never filtered.
            # Uncompressed, for a row group is decoded by every rank in every epoch.
            self._parquet = pq.ParquetWriter(
                self._file, group_schema(fields), compression="none", use_dictionary=False, write_statistics=False
            )
            self._groups = GroupFiller(fields, self._most_rows, self._parquet.write_batch)
        self._groups.add(arrays)

    def commit(self) -> PartResult | None:
        if self._file is None or self._groups is None:
            return None
        self._groups.finish()
        self._parquet.close()
        self._file.commit()
        return PartResult(
            self._partition,
            file=self._name,
            rows_per_group=tuple(self._groups.rows_per_group),
            num_bytes=self._file.tell(),
            checksum=self._file.checksum,
            fields=self._groups.fields,
        )

    def close(self) -> None:
        if self._parquet is not None:
            # An unfinished writer would write the file's end when it is collected, into a file that is gone by then.
            self._parquet.is_open = False
        if self._file is not None:
            self._file.close()
