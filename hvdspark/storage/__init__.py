"""Files and folders at paths and URLs: all file work of the project goes through here.

A plain path and a ``file:`` URL are local; everything else (``s3://bucket/key``, ``hdfs://host/path``, ``memory://x``)
goes through fsspec. A file is either not there or whole: a local file is written under a temporary name in its own
folder, synced and renamed; an object store gets one put; other remote file systems get a put and a move.

The checksum is SHA-256 everywhere. It notices a file that was exchanged on purpose as well as a damaged one, one kind
serves manifests and checkpoints, and hashing releases the interpreter lock. CRC-32 is two to three times faster, and
finds accidents only.

Folders are never made in passing, `make_directories` makes them: a task that outlives its job cannot bring a removed
folder back.
"""

from hvdspark.storage.files import AtomicWriter, checksum, open_reader, read_bytes, read_json, write_bytes, write_json
from hvdspark.storage.lines import LineLog, read_lines
from hvdspark.storage.paths import (
    exists,
    is_local,
    join,
    list_files,
    local_path,
    make_directories,
    make_folder,
    remove_tree,
    version,
)
from hvdspark.storage.tensors import read_metadata, read_tensors, write_tensors

__all__ = [
    "AtomicWriter",
    "LineLog",
    "checksum",
    "exists",
    "is_local",
    "join",
    "list_files",
    "local_path",
    "make_directories",
    "make_folder",
    "open_reader",
    "read_bytes",
    "read_json",
    "read_lines",
    "read_metadata",
    "read_tensors",
    "remove_tree",
    "version",
    "write_bytes",
    "write_json",
    "write_tensors",
]
