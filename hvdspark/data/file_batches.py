"""Many small files, packed into one file a minibatch: one remote read for a batch instead of one for each image.

A file batch holds the bytes of the files as they were, and their paths as text. Nothing is compressed, so nothing
swells on reading; nothing is ever unpacked to disk, so a path in it leads nowhere.
"""

import functools
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeAlias

import numpy as np

from hvdspark import storage
from hvdspark.data.dataset import DataSet
from hvdspark.data.distribute import absolute, as_paths, is_rdd, run_over
from hvdspark.data.multidataset import MultiDataSet
from hvdspark.data.repartition import lay_out, partition_sizes
from hvdspark.data.sealed import read_sealed, write_sealed
from hvdspark.errors import ConfigurationError, DataError, StorageError

if TYPE_CHECKING:
    from pyspark import RDD
    from pyspark.sql import SparkSession

__all__ = ["FileBatch", "FileReader", "create_file_batches", "read_file_batch"]

FileReader: TypeAlias = Callable[[str, bytes], Any]
"""``(path, bytes) -> DataSet``, MultiDataSet, or the arrays of a DataSet; the first axis is the example."""

_FILES_PER_FOLDER = 1000  # file systems slow down, or refuse, where a folder holds a million


@dataclass(frozen=True)
class FileBatch:
    """Some files, whole.

    Parameters
    ----------
    paths
        Where each came from; text only, nothing is opened by it.
    contents
        The bytes of each.
    """

    paths: tuple[str, ...]
    contents: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if len(self.paths) != len(self.contents) or not self.paths:
            raise DataError(
                f"FileBatch: {len(self.paths)} paths and {len(self.contents)} contents are no batch of files"
            )

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        return iter(zip(self.paths, self.contents, strict=True))

    @classmethod
    def of(cls, paths: Sequence[str | os.PathLike[str]]) -> Self:
        """Read files from paths or URLs."""
        names = tuple(os.fspath(path) for path in paths)
        return cls(names, tuple(storage.read_bytes(name) for name in names))

    def save(self, path: str | os.PathLike[str]) -> str:
        """Write all as one file that knows its own content's checksum; return the SHA-256 of the file."""
        ends = np.fromiter(itertools.accumulate(map(len, self.contents)), np.int64, len(self))
        content = np.frombuffer(b"".join(self.contents), np.uint8)
        return write_sealed(path, "FileBatch", {"content": content, "ends": ends}, {"paths": self.paths})

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, expected_checksum: str | None = None) -> Self:
        """Read what `save` wrote.

        Raises
        ------
        StorageError
            Where the file cannot be read, is no file batch, or has changed.
        """
        parts, facts = read_sealed(path, "FileBatch", expected_checksum=expected_checksum)
        try:
            content, ends, paths = memoryview(parts["content"]), parts["ends"].tolist(), facts["paths"]
            starts = [0, *ends[:-1]]
            if ends[-1] != len(content) or any(start > end for start, end in zip(starts, ends, strict=True)):
                raise ValueError(f"{len(content)} bytes do not end at {ends}")
            contents = tuple(bytes(content[start:end]) for start, end in zip(starts, ends, strict=True))
            return cls(tuple(str(each) for each in paths), contents)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise StorageError(f"{path} holds no FileBatch that makes sense: {error!r}") from error

    def read(self, reader: FileReader) -> DataSet | MultiDataSet:
        """Return the examples of all files, in order.

        Parameters
        ----------
        reader
            ``(path, bytes)`` of a file in; a DataSet, a MultiDataSet, an array of features, or a tuple of the arrays of
            a DataSet out. What it raises is raised, with a note of the file.
        """
        found: list[Any] = []
        for path, content in self:
            try:
                made = reader(path, content)
                if not isinstance(made, DataSet | MultiDataSet):
                    made = DataSet(*made) if isinstance(made, tuple) else DataSet(made)
            except Exception as error:
                error.add_note(f"while reading {path}")
                raise
            found.append(made)
        return type(found[0]).merge(found)  # type: ignore[no-any-return]


def read_file_batch(path: str | os.PathLike[str], reader: FileReader) -> DataSet | MultiDataSet:
    """Return the examples of a saved file batch: `FileBatch.load`, then `FileBatch.read`."""
    return FileBatch.load(path).read(reader)


def create_file_batches(
    files: "Iterable[str | os.PathLike[str]] | RDD[str]",
    directory: str | os.PathLike[str],
    batch_size: int,
    *,
    seed: int | None = None,
    spark: "SparkSession | None" = None,
) -> list[str]:
    """Pack files into file batches of `batch_size` files each, the last one smaller, and return the batches' paths.

    Parameters
    ----------
    files
        Paths or URLs (`hvdspark.data.list_paths` lists a folder), or an RDD of them. A worker holds one batch at a
        time.
    directory
        Path or URL that the driver and all workers reach. It is made; where it is there, it must be empty. Batches lie
        in folders of a thousand.
    batch_size
        Files of a batch.
    seed
        Mix the files first, in an order that their paths and the seed give; None: batches follow the order given.
    spark
        The session whose workers pack the files of a list, classic or Connect; None: this process does.

    Raises
    ------
    DataError
        Where there is no file.
    StorageError
        Where a file cannot be read, a batch not written, or the directory holds something. Nothing is left behind.
    """
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ConfigurationError(f"batch_size: a whole number from 1 is needed, not {batch_size!r}")
    target, paths = absolute(directory), as_paths(files)
    was_there = storage.exists(target)
    if storage.list_files(target, recursive=True):
        raise StorageError(f"{target} is not empty: give an empty or a new directory")
    done = False
    try:
        written = _create(paths, target, batch_size, seed, spark)
        missing = set(written) - set(storage.list_files(target, recursive=True))
        if missing:
            raise StorageError(f"{min(missing)} was written but is not here: give a directory that all hosts share")
        done = True
    finally:
        if not done:
            for left in [target] if not was_there else storage.list_files(target, recursive=True):
                storage.remove_tree(left)
    return written


def _create(paths: Any, directory: str, batch_size: int, seed: int | None, spark: "SparkSession | None") -> list[str]:
    pack = functools.partial(_pack, directory)
    if is_rdd(paths):
        rdd = paths
        sizes = partition_sizes(rdd)
        num_files = sum(sizes)
        if seed is not None:
            rdd = rdd.keyBy(functools.partial(_draw, seed)).sortByKey().values()
            sizes = partition_sizes(rdd)
        items: Any = _grouped(rdd, sizes, batch_size)
    else:
        listed = list(paths) if seed is None else sorted(paths, key=functools.partial(_draw, seed))
        num_files = len(listed)
        starts = range(0, num_files, batch_size)
        items = [json.dumps([i, listed[start : start + batch_size]]) for i, start in enumerate(starts)]
    if not num_files:
        raise DataError("there is no file to pack")
    # Here, not by the workers: one that outlives its job cannot bring a removed folder back.
    for folder in range(0, -(-num_files // batch_size), _FILES_PER_FOLDER):
        storage.make_directories(storage.join(directory, _place(folder).rpartition("/")[0]))
    results = [json.loads(line) for line in run_over(items, pack, spark)]
    failed = next((result["error"] for result in results if "error" in result), None)
    if failed is not None:
        raise StorageError(failed)
    return sorted(result["path"] for result in results)


def _grouped(rdd: "RDD[str]", sizes: list[int], batch_size: int) -> "RDD[str]":
    """Return the RDD's paths as lines of ``[number of the batch, its paths]``."""
    starts, num_partitions = [0, *itertools.accumulate(sizes)], max(1, len(sizes))

    def targets(partition: int, paths: Iterable[str]) -> Iterator[tuple[int, int, tuple[int, str]]]:
        for place, path in enumerate(paths, start=starts[partition]):
            batch = place // batch_size
            yield batch % num_partitions, place, (batch, path)

    def lines(pairs: Iterable[tuple[int, str]]) -> Iterator[str]:
        for batch, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
            yield json.dumps([batch, [path for _, path in group]])

    return lay_out(rdd, num_partitions, targets).mapPartitions(lines)


def _pack(directory: str, lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        number, paths = json.loads(line)
        target = storage.join(directory, _place(number))
        try:
            FileBatch.of(paths).save(target)
        except StorageError as error:
            yield json.dumps({"error": str(error)})  # as data: the driver says it in a line, not in Spark's page
            return
        yield json.dumps({"path": target})


def _place(number: int) -> str:
    return f"{number // _FILES_PER_FOLDER:05d}/batch-{number:08d}.safetensors"


def _draw(seed: int, path: str) -> str:
    return hashlib.sha256(f"{seed} {path}".encode()).hexdigest()
