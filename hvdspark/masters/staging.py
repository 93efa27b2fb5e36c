"""The staged data of a fit: where they lie, how long they live, and when they are used again."""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import Callable, Iterator
from typing import TypeAlias

from hvdspark import storage
from hvdspark.data import Field, Manifest, PartitionReader, Source, TableSource, stage, stage_apart
from hvdspark.data.verdict import check_same_fields
from hvdspark.errors import DataError
from hvdspark.masters.exports import ExportDirectory
from hvdspark.masters.layout import Layout
from hvdspark.masters.placement import absolute
from hvdspark_launch import KeptPartitions

__all__ = ["StagedData", "check_alike", "staged"]

_Staged: TypeAlias = tuple[list[Manifest], list[str]]
_NUMBERS = {"int64": "integer", "float32": "float"}


@dataclasses.dataclass(frozen=True)
class StagedData:
    """Where the data of a fit lie.

    Parameters
    ----------
    train, validation : str
        Folders of staged data; the second may be None, and the first is where ranks get partitions of their own.
    fields : tuple of Field
        What a row of the training data consists of; empty where only the ranks know.
    rows : KeptPartitions, optional
        Partitions for the ranks.
    reader : PartitionReader, optional
        Makes rows of them.
    """

    train: str | None
    validation: str | None
    fields: tuple[Field, ...] = ()
    rows: KeptPartitions | None = None
    reader: PartitionReader | None = None


def check_alike(train: Source, validation: Source) -> None:
    """Compare what is known of two tables before their rows are read.

    Raises
    ------
    DataError
        If their labels are of different types.
    """
    if not (isinstance(train, TableSource) and isinstance(validation, TableSource)):
        return
    for ours, theirs in zip(train.table.plan.of("label"), validation.table.plan.of("label"), strict=False):
        if ours.dtype is not None and theirs.dtype is not None and ours.dtype != theirs.dtype:
            raise DataError(
                f"the label column {ours.name!r} has the type {_NUMBERS[ours.dtype]} in the training data and "
                f"{_NUMBERS[theirs.dtype]} in the validation data: cast one of them, so that both mean the same"
            )


@contextlib.contextmanager
def staged(
    train: Source, validation: Source | None, run_directory: str, export_directory: str | None
) -> Iterator[StagedData]:
    """Stage the data of a fit for the length of a block.

    Without an export directory they lie in the run directory, and are removed at the end of the block, whatever
    happens. In an `ExportDirectory` they stay, and what was staged there from the same source in the same way is used
    again, after its checksums were compared.

    Parameters
    ----------
    train, validation : Source
        Where rows come from; the second may be None, also where the first holds rows back for validation.
    run_directory, export_directory : str
        See above.
    """
    if export_directory is not None:
        export = ExportDirectory(absolute(export_directory))
        yield _stage_all(train, validation, lambda source, _: _keep_staged(source, export))
        return
    parent = storage.join(run_directory, f"staged-{secrets.token_hex(4)}")
    try:
        yield _stage_all(train, validation, lambda source, name: _stage(source, storage.join(parent, name)))
    finally:
        storage.remove_tree(parent)


@contextlib.contextmanager
def handed_over(
    train: Source, validation: Source | None, run_directory: str, num_workers: int, layout: Layout
) -> Iterator[StagedData]:
    """Make a source ready for the ranks to read their own partitions of; validation data of their own are staged.

    Parameters
    ----------
    train, validation : Source
        Where rows come from; the second may be None, also where the first holds rows back for validation.
    run_directory : str
        Validation data lie there for the length of the block.
    num_workers : int
        How many ranks there are.
    layout : Layout
        Who gets which rows of a DataFrame, and how long Spark holds them.
    """
    with contextlib.ExitStack() as stack:
        place = None
        if validation is not None:
            data = stack.enter_context(staged(validation, None, run_directory, None))
            place = data.train
        handover = train.hand_over(num_workers)
        frame = handover.frame
        if isinstance(train, TableSource):
            frame = stack.enter_context(layout.of_frame(frame, num_workers))
        yield StagedData(None, place, rows=KeptPartitions(frame), reader=handover.reader)


def _stage_all(train: Source, validation: Source | None, stage_one: Callable[[Source, str], _Staged]) -> StagedData:
    manifests, places = stage_one(train, "train")
    if validation is not None:
        more, place = stage_one(validation, "validation")
        manifests, places = manifests + more, places + place
    if len(manifests) > 1:
        check_same_fields(manifests[0].fields, manifests[1].fields)
    return StagedData(places[0], places[1] if len(places) > 1 else None, manifests[0].fields)


def _stage(source: Source, place: str) -> _Staged:
    """Stage a source into a folder, and the rows that it holds back into another."""
    places = [place, f"{place}-validation"] if source.has_flags else [place]
    return _stage_into(source, places), places


def _keep_staged(source: Source, export: ExportDirectory) -> _Staged:
    identity = source.identity() or ""
    num_parts = 2 if source.has_flags else 1
    return export.data_set(source.name, identity, num_parts, lambda places: _stage_into(source, places, identity))


def _stage_into(source: Source, places: list[str], identity: str = "") -> list[Manifest]:
    if source.has_flags:
        return list(stage_apart(source, places[0], places[1], identity=identity))
    return [stage(source, places[0], identity=identity)]
