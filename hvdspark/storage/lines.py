"""JSON-lines files: what events are written to."""

import errno
import os
from collections.abc import Mapping
from typing import Any, Self

from hvdspark.errors import StorageError
from hvdspark.storage.files import parse_json, read_bytes, to_json
from hvdspark.storage.paths import local_path, storage_errors

__all__ = ["LineLog", "read_lines"]


def read_lines(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Return the records of a JSON-lines file in order; a torn last line (the writer was killed) is left out.

    Raises
    ------
    StorageError
        Where a whole line is not a JSON object, with its number.
    """
    records = []
    for number, line in enumerate(read_bytes(path).split(b"\n")[:-1], start=1):
        record = parse_json(line, f"{path}, line {number}")
        if not isinstance(record, dict):
            raise StorageError(f"{path}, line {number}: an object is needed, not {line[:40]!r}")
        records.append(record)
    return records


class LineLog:
    """Appends records to a local JSON-lines file, one write a line: a killed process tears the last line at most.

    A context manager. Several processes may append to the same file of a local disk: each line is written at its end.

    Parameters
    ----------
    path
        A local path; object stores cannot append.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = local_path(path)
        with storage_errors("append to", path):
            self._file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._open = True

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one record; NaN and infinity are refused, and so is a closed log."""
        if not self._open:
            raise StorageError(f"cannot append to {self._path}: the log is closed")
        line = to_json(dict(record), f"a record for {self._path}").encode() + b"\n"
        with storage_errors("append to", self._path):
            written = os.write(self._file, line)
            if written != len(line):
                raise OSError(errno.ENOSPC, f"only {written} of {len(line)} bytes were written")

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._open:
            self._open = False
            os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()
