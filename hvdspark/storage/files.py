"""Whole files: written all or nothing, read with an optional check of their SHA-256."""

import errno
import hashlib
import io
import json
import os
import tempfile
import uuid
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

from hvdspark.errors import StorageError
from hvdspark.storage.paths import is_local, local_path, remote_file_system, storage_errors

__all__ = [
    "AtomicWriter",
    "checksum",
    "open_reader",
    "parse_json",
    "read_bytes",
    "read_json",
    "to_json",
    "write_bytes",
    "write_json",
]

_MAX_JSON_BYTES = 1 << 26  # the largest manifest that makes sense is a few MiB; a larger file is a mistake or an attack
_COPY_BYTES = 1 << 20
# A put of these is all or nothing, and their "move" is a copy and a delete.
_OBJECT_STORES = frozenset(["abfs", "abfss", "adl", "az", "gcs", "gs", "hf", "memory", "oci", "oss", "r2", "s3", "s3a"])


def open_reader(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading bytes, with seek; the caller closes it."""
    with storage_errors("read", path):
        if is_local(path):
            return local_path(path).open("rb")
        file_system, name = remote_file_system(path)
        return cast("BinaryIO", file_system.open(name, "rb"))


def checksum(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file as 64 hex digits."""
    with open_reader(path) as file, storage_errors("read", path):
        digest = hashlib.sha256()
        while piece := file.read(_COPY_BYTES):
            digest.update(piece)
        return digest.hexdigest()


def read_bytes(path: str | os.PathLike[str], *, expected_checksum: str | None = None) -> bytes:
    """Return a file's bytes.

    Raises
    ------
    StorageError
        Where the file cannot be read, or its SHA-256 is not the expected one.
    """
    with open_reader(path) as file, storage_errors("read", path):
        data = file.read()
    if expected_checksum is not None and hashlib.sha256(data).hexdigest() != expected_checksum:
        raise StorageError(f"{path} has changed or is damaged: its SHA-256 is not {expected_checksum}")
    return data


def write_bytes(path: str | os.PathLike[str], data: bytes | bytearray | memoryview) -> str:
    """Write a whole file, all or nothing, and return its SHA-256; a file of that name is replaced."""
    with AtomicWriter(path) as file:
        file.write(data)
    return file.checksum


def read_json(path: str | os.PathLike[str], *, expected_checksum: str | None = None) -> Any:
    """Return what a JSON file holds; NaN and infinity, which are no JSON, are refused."""
    data = read_bytes(path, expected_checksum=expected_checksum)
    if len(data) > _MAX_JSON_BYTES:
        raise StorageError(f"{path}: {len(data)} bytes are too many for JSON (limit {_MAX_JSON_BYTES})")
    return parse_json(data, str(path))


def write_json(path: str | os.PathLike[str], value: Any) -> str:
    """Write a value as JSON, all or nothing, and return the file's SHA-256; NaN and infinity are refused."""
    return write_bytes(path, (to_json(value, str(path), indent=1) + "\n").encode())


class AtomicWriter(io.RawIOBase):
    """A file that appears whole under its name, or not at all.

    Write to it like to any binary file, in order, without seeking. Leaving the ``with`` block puts the file in its
    place; an exception in the block leaves nothing. Local: a temporary name in the same folder, fsync, rename, fsync of
    the folder. Remote: a temporary local file, then one put (object stores) or a put and a move (others).

    Parameters
    ----------
    path
        Path or URL; its folder must be there.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__()
        self._path = os.fspath(path)
        self._digest = hashlib.sha256()
        self._num_bytes = 0
        with storage_errors("write", path):
            if is_local(path):
                place = local_path(path)
                self._temporary = place.with_name(f".{place.name}.{uuid.uuid4().hex}.tmp")
                self._file: BinaryIO = self._temporary.open("xb")  # not tempfile: that hides the file from other users
            else:
                number, name = tempfile.mkstemp(prefix="hvdspark-", suffix=".tmp")
                self._temporary = Path(name)
                self._file = os.fdopen(number, "wb")

    @property
    def checksum(self) -> str:
        """SHA-256 of what was written so far, 64 hex digits."""
        return self._digest.hexdigest()

    def writable(self) -> bool:
        """Say that this takes bytes."""
        return True

    def tell(self) -> int:
        """Return how many bytes were written."""
        return self._num_bytes

    def write(self, data: Any) -> int:
        """Append bytes; all of them are taken."""
        piece = memoryview(data).cast("B")
        with storage_errors("write", self._path):
            self._file.write(piece)
        self._digest.update(piece)
        self._num_bytes += piece.nbytes
        return piece.nbytes

    def commit(self) -> None:
        """Put the file in its place and close this writer."""
        try:
            with storage_errors("write", self._path):
                self._file.flush()
                if is_local(self._path):
                    os.fsync(self._file.fileno())
                    place = local_path(self._path)
                    self._temporary.replace(place)
                    _sync_folder(place.parent)
                else:
                    _put(self._temporary, self._path)
        finally:
            self.close()

    def close(self) -> None:
        """Close; what was not committed is dropped."""
        if not self.closed and hasattr(self, "_file"):
            self._file.close()
            self._temporary.unlink(missing_ok=True)
        super().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        if kind is None:
            self.commit()
        else:
            self.close()


def _sync_folder(folder: Path) -> None:
    # Without this a renamed file may be gone after a power cut (ext4, XFS).
    number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):  # some network mounts cannot sync folders
            raise
    finally:
        os.close(number)


def _put(source: Path, url: str) -> None:
    file_system, name = remote_file_system(url)
    protocols = {file_system.protocol} if isinstance(file_system.protocol, str) else set(file_system.protocol)
    if protocols & _OBJECT_STORES:
        file_system.put_file(str(source), name)
        return
    folder, _, last = name.rpartition("/")
    temporary = f"{folder}/.{last}.{uuid.uuid4().hex}.tmp"
    try:
        file_system.put_file(str(source), temporary)
        file_system.mv(temporary, name)
    finally:
        if file_system.exists(temporary):
            file_system.rm_file(temporary)


def parse_json(data: bytes, what: str) -> Any:
    """Return the value of JSON text; `what` names the text in the error.

    Raises
    ------
    StorageError
        Where it is not JSON, or holds NaN or infinity.
    """
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise StorageError(f"{what} is not JSON: {error}") from error


def to_json(value: Any, what: str, *, indent: int | None = None) -> str:
    """Return a value as JSON text; `what` names it in the error.

    Raises
    ------
    StorageError
        Where the value holds something that JSON has not, as NaN, infinity or an object of a class.
    """
    try:
        return json.dumps(value, allow_nan=False, indent=indent)
    except (TypeError, ValueError) as error:
        raise StorageError(f"{what} cannot be written as JSON: {error}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
