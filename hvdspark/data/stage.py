"""Export: rows of any source become Parquet row groups and a manifest, in one Spark job, before training starts.

The staged data never changes afterwards. Spark may compute a partition twice with other rows (a plan with ``rand``):
the files are what counts from here on, and their checksums say so.

A task writes the file of its partition under a name that the partition's number gives, all or nothing. A task that runs
again thus replaces the file by the same one. What cannot be trained on comes back as data, not as an exception, so that
the driver can say in one sentence what is wrong in the whole source.
"""

import functools
import os
from collections.abc import Iterable

from hvdspark import storage
from hvdspark.data.manifest import MANIFEST_NAME, Manifest, StagedFile, part_number
from hvdspark.data.parts import PartResult, write_parts
from hvdspark.data.rows import Rows
from hvdspark.data.sources import Source
from hvdspark.data.verdict import check_parts
from hvdspark.data.workers import use_driver_python, workers_explained
from hvdspark.errors import ConfigurationError, DataError, StorageError

__all__ = ["stage", "stage_apart"]


def stage(
    source: Source, directory: str | os.PathLike[str], *, rows_per_group: int = 256, identity: str = ""
) -> Manifest:
    """Write the rows of a source as Parquet files and a manifest, and return the manifest.

    Parameters
    ----------
    source
        Where rows come from. It is computed once, by one job; its partitioning is kept (one file for each partition
        that has rows, a thousand files to a folder).
    directory
        Path or URL that the driver and all workers reach. It is made; where it is there, it must be empty, or hold what
        an earlier call left that was killed.
    rows_per_group
        Rows of a row group, at most: the unit of reading. Rows of 32 groups are mixed with each other, and held in
        memory together. Groups also end at 8 MiB.
    identity
        Kept in the manifest: what the data are made from.

    Raises
    ------
    DataError
        Where there is no row, or rows cannot be trained on: one error for the whole source.
    StorageError
        Where the directory cannot be used.
    """
    if source.has_flags:
        raise ConfigurationError("rows that are held back for validation need a directory of their own: stage_apart")
    (manifest,) = _stage(source, [os.fspath(directory)], rows_per_group, identity)
    return manifest


def stage_apart(
    source: Source,
    directory: str | os.PathLike[str],
    validation_directory: str | os.PathLike[str],
    *,
    rows_per_group: int = 256,
    identity: str = "",
) -> tuple[Manifest, Manifest]:
    """Write the rows that are held back for validation apart from the others; otherwise as `stage`.

    Both come from one pass: also where Spark computes a plan twice with other rows, each row is in one of them.
    """
    places = [os.fspath(directory), os.fspath(validation_directory)]
    train, validation = _stage(source, places, rows_per_group, identity)
    return train, validation


def _stage(source: Source, directories: list[str], rows_per_group: int, identity: str) -> list[Manifest]:
    if source.roles is not None and "label" not in source.roles:
        raise DataError("there is no label column: training needs one")
    if rows_per_group < 1:
        raise ConfigurationError(f"rows_per_group: at least 1 is needed, not {rows_per_group}")
    places = [
        str(storage.local_path(place).absolute()) if storage.is_local(place) else place for place in directories
    ]  # workers may run in another folder
    use_driver_python(source.spark)
    there, done = [_prepare(place) for place in places], False
    try:
        manifests = _combine(source, _run(source, places, rows_per_group), identity, len(places))
        for place, manifest in zip(places, manifests, strict=True):
            _check_files(place, manifest)
            manifest.write(place)
        done = True
    finally:
        if not done:
            for place, was_there in zip(places, there, strict=True):
                _clear(place, keep_directory=was_there)
    return manifests


def _prepare(directory: str) -> bool:
    """Make the directory ready; tell whether it was there."""
    was_there = storage.exists(directory)
    left = [_below(directory, path) for path in storage.list_files(directory, recursive=True)] if was_there else []
    if MANIFEST_NAME in left:
        raise StorageError(f"{directory} holds a staged data set already: read its manifest, or give another directory")
    strange = [name for name in left if part_number(name) is None]
    if strange:
        raise StorageError(f"{directory} is not empty ({strange[0]} is there): give an empty or a new directory")
    if left:  # of a call that was killed before it wrote the manifest
        _clear(directory, keep_directory=True)
    storage.make_directories(directory)
    return was_there


def _clear(directory: str, *, keep_directory: bool) -> None:
    if not keep_directory:
        storage.remove_tree(directory)
        return
    for name in {_below(directory, path).partition("/")[0] for path in storage.list_files(directory, recursive=True)}:
        storage.remove_tree(storage.join(directory, name))  # one by one: the caller's folder keeps its permissions


def _below(directory: str, path: str) -> str:
    return path.removeprefix(storage.join(directory, "x")[:-1])


def _run(source: Source, places: list[str], rows_per_group: int) -> list[PartResult]:
    with workers_explained():
        texts = source.run(functools.partial(_write, places, rows_per_group))
    results = [PartResult.from_json(text) for text in texts]
    return sorted(results, key=lambda result: (result.place, result.partition))


def _write(places: list[str], rows_per_group: int, rows: Iterable[Rows], partition: int) -> list[str]:
    return [result.to_json() for result in write_parts(rows, places, partition, rows_per_group)]


def _combine(source: Source, results: list[PartResult], identity: str, num_places: int) -> list[Manifest]:
    check_parts(results, source.name, source.noun, num_places)
    manifests = []
    for place in range(num_places):
        found = [result for result in results if result.place == place]
        files = tuple(StagedFile(r.file, r.rows_per_group, r.num_bytes, r.checksum) for r in found)
        manifests.append(Manifest(results[0].fields, files, identity))
    return manifests


def _check_files(directory: str, manifest: Manifest) -> None:
    there = {_below(directory, path) for path in storage.list_files(directory, recursive=True)}
    missing = [file.name for file in manifest.files if file.name not in there]
    if missing:
        raise StorageError(
            f"{directory}: the workers wrote {len(manifest.files)} files, and {len(missing)} of them are not there for "
            f"the driver ({missing[0]}): give a directory or URL that the driver and all workers reach"
        )
