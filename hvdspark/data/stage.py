"""Export: a DataFrame becomes Parquet row groups and a manifest, in one Spark job, before training starts.

The staged data never changes afterwards. Spark may compute a partition twice with other rows (a plan with ``rand``):
the files are what counts from here on, and their checksums say so.

A task writes the file of its partition under a name that the partition's number gives, all or nothing. A task that runs
again thus replaces the file by the same one. What cannot be trained on comes back as data, not as an exception, so that
the driver can say in one sentence what is wrong in the whole table.
"""

import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from hvdspark import storage
from hvdspark.data.columns import ColumnPlan, explain
from hvdspark.data.manifest import MANIFEST_NAME, Manifest, StagedFile
from hvdspark.data.parts import PartResult, write_part
from hvdspark.data.values import Problem
from hvdspark.data.workers import use_driver_python, workers_explained
from hvdspark.errors import ConfigurationError, DataError, StorageError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame

__all__ = ["stage"]

_NAMED_PARTITIONS = 3  # a message lists the first few partitions, not a thousand


def stage(
    df: "DataFrame", plan: ColumnPlan, directory: str | os.PathLike[str], *, rows_per_group: int = 256
) -> Manifest:
    """Write a DataFrame's features and labels as Parquet files and a manifest, and return the manifest.

    Parameters
    ----------
    df
        A classic or Spark Connect DataFrame. It is computed once, by one job; its partitioning is kept (one file for
        each partition that has rows).
    plan
        What its features and labels are (`hvdspark.data.columns.plan_columns`); with a label.
    directory
        Path or URL that the driver and all workers reach. It is made; where it is there, it must be empty, or hold what
        an earlier call left that was killed.
    rows_per_group
        Rows of a row group, at most: the unit of reading. Rows of 32 groups are mixed with each other, and held in
        memory together. Groups also end at 64 MiB.

    Raises
    ------
    DataError
        Where there is no row, or rows hold nulls, NaN, infinity or arrays of unequal width: one error for the table.
    StorageError
        Where the directory cannot be used.
    """
    if plan.label is None:
        raise DataError("there is no label column: training needs one")
    if rows_per_group < 1:
        raise ConfigurationError(f"rows_per_group: at least 1 is needed, not {rows_per_group}")
    place = os.fspath(directory)
    if storage.is_local(place):
        place = str(storage.local_path(place).absolute())  # workers may run in another folder
    was_there = _prepare(place)
    use_driver_python(df.sparkSession)
    done = False
    try:
        results = _run(df, plan, place, rows_per_group)
        manifest = _combine(plan, results)
        _check_files(place, manifest)
        manifest.write(place)
        done = True
    finally:
        if not done:
            _clear(place, keep_directory=was_there)
    return manifest


def _prepare(directory: str) -> bool:
    """Make the directory ready; tell whether it was there."""
    was_there = storage.exists(directory)
    left = [name.rpartition("/")[2] for name in storage.list_files(directory)] if was_there else []
    if MANIFEST_NAME in left:
        raise StorageError(f"{directory} holds a staged data set already: read its manifest, or give another directory")
    strange = [name for name in left if not name.startswith("part-")]
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
    for file in storage.list_files(directory):  # one by one: the caller's folder keeps its permissions
        storage.remove_tree(file)


def _run(df: "DataFrame", plan: ColumnPlan, directory: str, rows_per_group: int) -> list[PartResult]:
    task = _task(plan, directory, rows_per_group)
    with workers_explained():
        rows = df.select(*plan.select()).mapInArrow(task, "result string").collect()
    return sorted((PartResult.from_json(row["result"]) for row in rows), key=lambda result: result.partition)


def _task(
    plan: ColumnPlan, directory: str, rows_per_group: int
) -> "Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]":
    def write(batches: "Iterator[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
        import pyarrow as pa
        from pyspark import TaskContext

        context = TaskContext.get()
        if context is None:
            raise RuntimeError("this runs inside a Spark task only")
        result = write_part(batches, plan, directory, context.partitionId(), rows_per_group)
        if result is not None:
            yield pa.RecordBatch.from_pydict({"result": [result.to_json()]})

    return write


def _combine(plan: ColumnPlan, results: list[PartResult]) -> Manifest:
    failed = next((result for result in results if result.storage_error), None)
    if failed is not None:
        raise StorageError(f"partition {failed.partition} was not written: {failed.storage_error}")
    _check_problems(results)
    if not results:
        raise DataError("the DataFrame is empty: there is no row to train on. Look at the filters and joins before it")
    first = results[0]
    _check_widths(plan.feature_names, [(result, result.feature_width) for result in results])
    _check_widths(str(plan.label), [(result, result.label_width or 1) for result in results])
    return Manifest(
        feature_columns=plan.features,
        label_column=str(plan.label),
        feature_width=first.feature_width,
        label_dtype=plan.label_dtype,
        label_width=first.label_width,
        files=tuple(StagedFile(r.file, r.rows_per_group, r.num_bytes, r.checksum) for r in results),
    )


def _check_widths(column: str, widths: list[tuple[PartResult, int]]) -> None:
    first, width = widths[0]
    others = [(result, other) for result, other in widths if other != width]
    if others:
        result, other = others[0]
        rows = sum(sum(result.rows_per_group) for result, _ in others)
        where = f"{width} in partition {first.partition}, {other} in partition {result.partition}"
        raise DataError(explain(Problem(column, "width", rows, 0, (width, other)), where))


def _check_problems(results: list[PartResult]) -> None:
    found: dict[tuple[str, str], list[tuple[int, Problem]]] = {}
    for result in results:
        for problem in result.problems:
            found.setdefault((problem.column, problem.kind), []).append((result.partition, problem))
    if not found:
        return
    texts = []
    for places in found.values():
        first_partition, first = places[0]
        named = [f"{problem.count} in partition {partition}" for partition, problem in places[:_NAMED_PARTITIONS]]
        if len(places) > _NAMED_PARTITIONS:
            named.append(f"the others in {len(places) - _NAMED_PARTITIONS} more partitions")
        where = f"{', '.join(named)}; the first is row {first.first_row} of partition {first_partition}"
        total = sum(problem.count for _, problem in places)
        texts.append(explain(Problem(first.column, first.kind, total, first.first_row, first.widths), where))
    raise DataError("; ".join(texts))


def _check_files(directory: str, manifest: Manifest) -> None:
    there = {name.rpartition("/")[2] for name in storage.list_files(directory)}
    missing = [file.name for file in manifest.files if file.name not in there]
    if missing:
        raise StorageError(
            f"{directory}: the workers wrote {len(manifest.files)} files, and {len(missing)} of them are not there for "
            f"the driver ({missing[0]}): give a directory or URL that the driver and all workers reach"
        )
