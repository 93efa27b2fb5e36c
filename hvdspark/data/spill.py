"""One rank's rows in a local file of Arrow record batches, which is mapped into memory and read for all epochs.

The file has no name: it is gone as soon as the process that has it open lets go of it, also where it is killed. So
nothing can be left behind, and nobody else can change or shorten what is mapped.
"""

import contextlib
import hashlib
import json
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from numpy.typing import NDArray

from hvdspark.data.direct_plan import equal_groups
from hvdspark.data.fields import Field
from hvdspark.data.filling import GroupFiller, group_schema, rows_in_group
from hvdspark.data.parts import write_rows
from hvdspark.data.problems import Problem
from hvdspark.data.row_groups import GroupReader, RowGroups, decode_column
from hvdspark.data.rows import Rows
from hvdspark.errors import StorageError

__all__ = ["ROWS_PER_GROUP", "SpillResult", "SpilledRowGroups", "Spiller", "spill", "spill_folder"]

ROWS_PER_GROUP = 256


def spill_folder(rank: int) -> str:
    """Return the folder of this host where Spark puts what does not fit into memory; without Spark the temporary one.

    Where Spark has several (one a disk), ranks take turns.
    """
    given = [each for each in os.environ.get("SPARK_LOCAL_DIRS", "").split(",") if Path(each).is_dir()]
    return given[rank % len(given)] if given else tempfile.gettempdir()


class SpilledRowGroups(RowGroups):
    """The row groups of one rank. Its rows live as long as it.

    Parameters
    ----------
    fields
        What a row consists of.
    num_rows
        How many there are.
    most_rows
        Rows of a group, at most.
    checksum
        SHA-256 of what was written.
    batches
        The open file, as `pyarrow.ipc.RecordBatchFileReader`; None: there is no row.
    """

    def __init__(
        self,
        fields: tuple[Field, ...] = (),
        num_rows: int = 0,
        most_rows: int = ROWS_PER_GROUP,
        checksum: str = "",
        batches: Any = None,
    ) -> None:
        self._fields = fields
        self.num_rows = num_rows
        self.most_rows = most_rows
        self._checksum = checksum
        self._batches = batches

    @property
    def fields(self) -> tuple[Field, ...]:
        """What a row consists of; empty where there is none and nobody has said."""
        return self._fields

    def of(self, fields: tuple[Field, ...]) -> "SpilledRowGroups":
        """Return the same rows under the fields that all ranks have: a rank without rows does not know its own."""
        return SpilledRowGroups(fields, self.num_rows, self.most_rows, self._checksum, self._batches)

    @property
    def rows_per_group(self) -> tuple[int, ...]:
        """Rows of each group: all alike, but for the last one."""
        return equal_groups(self.num_rows, rows_in_group(self._fields, self.most_rows)) if self.num_rows else ()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of fields, rows and their order: equal exactly where these are the same."""
        facts = [[asdict(field) for field in self._fields if self.num_rows], self.num_rows, self._checksum]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    @contextlib.contextmanager
    def open(self) -> Iterator[GroupReader]:
        """Return a reader: its arrays are views of the mapped file."""
        yield _SpillReader(self._fields, self._batches)


class _SpillReader:
    def __init__(self, fields: tuple[Field, ...], batches: Any) -> None:
        self._fields = fields
        self._batches = batches

    def group(self, group: int) -> Sequence[NDArray[Any]]:
        batch = self._batches.get_batch(group)
        table = pa.Table.from_batches([batch])
        return [decode_column(table.column(field.key), field, batch.num_rows) for field in self._fields]


class Spiller:
    """Writes the rows of one rank; `finish` gives what was written, `close` lets go of it where that was not called.

    Parameters
    ----------
    folder
        Where there is room for the rows.
    most_rows
        Rows of a row group, at most.
    """

    def __init__(self, folder: str, most_rows: int = ROWS_PER_GROUP) -> None:
        self._folder = folder
        self._most_rows = most_rows
        self._file: _HashedFile | None = None
        self._groups: GroupFiller | None = None
        self._ipc: Any = None
        self._num_rows = 0

    def add(self, fields: tuple[Field, ...], arrays: Sequence[NDArray[Any]]) -> None:
        """Write rows: `[n, *field.shape]` of each field, which are not kept.

        Raises
        ------
        StorageError
            Where there is no room, most likely.
        """
        if not len(arrays[0]):
            return
        with self._explained():
            if self._groups is None:
                self._file = _HashedFile(self._folder)
                self._ipc = pa.ipc.new_file(pa.PythonFile(self._file, "w"), group_schema(fields))
                self._groups = GroupFiller(fields, self._most_rows, self._ipc.write_batch)
            self._groups.add(arrays)
        self._num_rows += len(arrays[0])

    def finish(self) -> SpilledRowGroups:
        """Return the rows that were written, mapped into memory."""
        if self._file is None or self._groups is None:
            return SpilledRowGroups(most_rows=self._most_rows)
        with self._explained():
            self._groups.finish()
            self._ipc.close()
            mapped = self._file.mapped()
        return SpilledRowGroups(
            self._groups.fields,
            self._num_rows,
            self._most_rows,
            self._file.checksum,
            pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped))),
        )

    def close(self) -> None:
        """Let go of the file; what `finish` returned keeps its rows."""
        if self._file is not None:
            self._file.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(
                f"the rows of this rank could not be written to {self._folder}: {error}. Make room there, name another "
                "folder in spark.local.dir (SPARK_LOCAL_DIRS), or use rdd_training_approach='export'"
            ) from error


class _HashedFile:
    """A file without a name that knows the SHA-256 of what was written: as much of a file as Arrow wants."""

    closed = False

    def __init__(self, folder: str) -> None:
        self._file = tempfile.TemporaryFile(dir=folder, prefix="hvdspark-")  # noqa: SIM115  # closed by close()
        self._hash = hashlib.sha256()

    def write(self, data: Any) -> int:
        self._hash.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()

    @property
    def checksum(self) -> str:
        return self._hash.hexdigest()

    def mapped(self) -> mmap.mmap:
        self._file.flush()
        return mmap.mmap(self._file.fileno(), 0, access=mmap.ACCESS_READ)

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True)
class SpillResult:
    """What became of the rows of one rank.

    Parameters
    ----------
    groups
        The rows to train on, and those held back where rows carry flags; empty where anything is wrong.
    problems
        What cannot be trained on, counted over all rows of the rank.
    storage_error
        Why the rows could not be written.
    """

    groups: tuple[SpilledRowGroups, ...] = ()
    problems: tuple[Problem, ...] = ()
    storage_error: str = ""


def spill(
    source: Iterable[Rows], folder: str, *, has_flags: bool = False, most_rows: int = ROWS_PER_GROUP
) -> SpillResult:
    """Write the rows of one rank to files of their own; what is wrong with them is told, not raised.

    Parameters
    ----------
    source
        The rows.
    folder
        Where there is room for them.
    has_flags
        Whether rows say which of them are held back for validation: those get a file of their own.
    most_rows
        Rows of a row group, at most.
    """
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(contextlib.closing(Spiller(folder, most_rows))) for _ in range(2 if has_flags else 1)
        ]
        try:
            problems = write_rows(source, writers)
            if problems:
                return SpillResult(problems=tuple(problems))
            return SpillResult(tuple(writer.finish() for writer in writers))
        except StorageError as error:
            return SpillResult(storage_error=str(error))
