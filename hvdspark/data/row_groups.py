"""Row groups: the unit in which rows are stored and read, and what reads them from staged Parquet."""

import abc
import contextlib
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from hvdspark import storage
from hvdspark.data.fields import Field
from hvdspark.data.manifest import Manifest, StagedFile
from hvdspark.data.plan import GROUPS_PER_BLOCK
from hvdspark.errors import StorageError

__all__ = ["GroupReader", "RowGroups", "StagedRowGroups", "decode_column"]

_MAX_FILES = GROUPS_PER_BLOCK

_checked: set[tuple[str, str]] = set()  # path and SHA-256 of the files that this process has found whole
_checking = threading.Lock()  # ranks that are threads of one process check a file once


class GroupReader(Protocol):
    """Reads row groups. Used by one thread at a time."""

    def group(self, group: int) -> Sequence[NDArray[Any]]:
        """Return a row group's arrays in the order of the fields: `[rows, *field.shape]` each, not to be written to.

        Raises
        ------
        StorageError
            Where it cannot be read.
        """
        ...


class RowGroups(abc.ABC):
    """Rows that lie in groups. A value: what it opens reads the same rows every time."""

    @property
    @abc.abstractmethod
    def fields(self) -> tuple[Field, ...]:
        """What a row consists of."""

    @property
    @abc.abstractmethod
    def rows_per_group(self) -> tuple[int, ...]:
        """Rows of each group: what a plan is made from."""

    @abc.abstractmethod
    def open(self) -> AbstractContextManager[GroupReader]:
        """Return a reader for the length of a block."""


class StagedRowGroups(RowGroups):
    """The row groups of a staged data set.

    Parameters
    ----------
    directory
        Path or URL of the data set.
    manifest
        Its manifest.
    """

    def __init__(self, directory: str | os.PathLike[str], manifest: Manifest) -> None:
        self._directory = os.fspath(directory)
        self._manifest = manifest

    @property
    def fields(self) -> tuple[Field, ...]:
        """What a row consists of."""
        return self._manifest.fields

    @property
    def rows_per_group(self) -> tuple[int, ...]:
        """Rows of each group, through all files."""
        return self._manifest.rows_per_group

    @contextlib.contextmanager
    def open(self) -> Iterator[GroupReader]:
        """Return a reader that holds the files in use.

        A file's SHA-256 is compared when a process opens it for the first time; one that is missing, unreadable, or not
        the one that was staged raises StorageError.
        """
        reader = _StagedReader(self._directory, self._manifest)
        try:
            yield reader
        finally:
            reader.close()


class _StagedReader:
    """Decodes row groups of a staged data set; owns the open files."""

    def __init__(self, directory: str, manifest: Manifest) -> None:
        self._directory = directory
        self._manifest = manifest
        self._files: OrderedDict[str, Any] = OrderedDict()

    def group(self, group: int) -> list[NDArray[Any]]:
        """Return a row group's arrays in the order of the fields, read-only; nothing is kept."""
        file, index = self._manifest.locate(group)
        rows = self._manifest.rows_per_group[group]
        try:
            # One thread: the machine's other cores belong to the other ranks and to the training itself.
            fields = self._manifest.fields
            table = self._open(file).read_row_group(index, columns=[field.key for field in fields], use_threads=False)
            return [decode_column(table.column(field.key), field, rows) for field in fields]
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            if isinstance(error, StorageError):
                raise
            path = storage.join(self._directory, file.name)
            raise StorageError(f"{path}: row group {index} cannot be read, stage again: {error}") from error

    def _open(self, file: StagedFile) -> Any:
        if file.name in self._files:
            self._files.move_to_end(file.name)
            return self._files[file.name]
        path = storage.join(self._directory, file.name)
        _check(path, file)
        if len(self._files) == _MAX_FILES:
            self._files.popitem(last=False)[1].close(force=True)
        # pyarrow reads local files itself. Not memory-mapped: a file that another process cuts short would kill us.
        source = str(storage.local_path(path)) if storage.is_local(path) else storage.open_reader(path)
        self._files[file.name] = pq.ParquetFile(source)
        return self._files[file.name]

    def close(self) -> None:
        """Close the files."""
        for file in self._files.values():
            file.close(force=True)
        self._files.clear()


def _check(path: str, file: StagedFile) -> None:
    with _checking:
        if (path, file.checksum) in _checked:
            return
        if storage.checksum(path) != file.checksum:
            raise StorageError(f"{path} has changed since it was staged: stage the data again")
        _checked.add((path, file.checksum))


def decode_column(column: Any, field: Field, rows: int) -> NDArray[Any]:
    """Return the `[rows, *field.shape]` array of a field's Arrow column, without a copy where it is in one piece."""
    array = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
    decoded: NDArray[Any]
    if field.shape:
        row_bytes = np.dtype(field.dtype).itemsize * field.num_values
        if array.type != pa.binary(row_bytes):
            raise ValueError(f"column {field.key} is {array.type}, the manifest says {row_bytes} bytes a row")
        count = len(array) * field.num_values
        decoded = np.frombuffer(array.buffers()[1], field.dtype, count, array.offset * row_bytes)
    else:
        decoded = array.to_numpy(zero_copy_only=True)
        if field.dtype == "bool":
            decoded = decoded.view(np.bool_)
    decoded.flags.writeable = False
    if decoded.dtype != field.dtype:
        raise ValueError(f"column {field.key} is {decoded.dtype}, the manifest says {field.dtype}")
    return decoded.reshape(rows, *field.shape)
