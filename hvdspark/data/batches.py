"""One rank's batches of an epoch, read from staged Parquet ahead of time."""

import os
import threading
from collections import OrderedDict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from hvdspark import storage
from hvdspark.data.fields import ROLES, Field, Role, natural
from hvdspark.data.manifest import Manifest, StagedFile
from hvdspark.data.plan import GROUPS_PER_BLOCK, EpochPlan
from hvdspark.errors import ConfigurationError, StorageError

__all__ = ["Batch", "Batches"]

Tensors = torch.Tensor | tuple[torch.Tensor, ...] | dict[str, torch.Tensor]
Masks = torch.Tensor | tuple[torch.Tensor | None, ...] | dict[str, torch.Tensor] | None

# Steps walk through the order and never come back: the block in use, and the next one where a batch spans both.
_MAX_GROUPS = 2 * GROUPS_PER_BLOCK
_MAX_FILES = GROUPS_PER_BLOCK

_checked: set[tuple[str, str]] = set()  # path and SHA-256 of the files that this process has found whole
_checking = threading.Lock()  # ranks that are threads of one process check a file once


@dataclass(frozen=True)
class Batch:
    """The rows that one rank takes in one step.

    Parameters
    ----------
    features
        `[b, *shape]` on the CPU, owned by the receiver, as all that follows. A tensor where there is one input, a tuple
        of them where there are several, a dict by argument where inputs are named. Without rows: `[0, *shape]`.
    labels
        `[b] int64`, `[b] float32` or `[b, *shape]`; a tuple where there are several outputs.
    features_mask, labels_mask
        `[b, ...] bool` in the same form, with None in a tuple where an input or output has none; None: no mask at all.
    weights
        `[b] float32`: what each example's loss is multiplied with; None: all count the same.
    examples
        Rows of this rank in this step: b.
    total_examples
        Rows of all ranks in this step: what a mean over ranks is weighted with.
    step
        Number of the step in the epoch, from 0.
    """

    features: Tensors
    labels: Tensors
    examples: int
    total_examples: int
    step: int
    features_mask: Masks = None
    labels_mask: Masks = None
    weights: torch.Tensor | None = None


class Batches:
    """Iterates over one rank's batches of one epoch, in the order of the plan; every iteration reads anew.

    A thread reads ahead. It ends with the iteration: at the end, on an error, and when the consumer stops early (its
    ``for`` loop is left, or the iterator's ``close()`` is called). An error of the thread is raised in the consumer.

    Parameters
    ----------
    directory
        Path or URL of the staged data set.
    manifest
        Its manifest.
    plan
        The epoch, made from ``manifest.rows_per_group``.
    rank
        Whose batches.
    start_step
        The first step wanted: a run that goes on in the middle of an epoch starts here.
    prefetch
        Batches that are read ahead; 0: none, and no thread.

    Raises
    ------
    ConfigurationError
        Where the plan is not one of this data set, or a number is out of range.
    StorageError
        While iterating: a file is missing, unreadable, or not the one that was staged (its SHA-256 is compared when a
        process reads it for the first time).
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        manifest: Manifest,
        plan: EpochPlan,
        rank: int,
        *,
        start_step: int = 0,
        prefetch: int = 2,
    ) -> None:
        if plan.rows_per_group != manifest.rows_per_group:
            raise ConfigurationError("the plan was not made from the row groups of this manifest")
        if not 0 <= rank < plan.size:
            raise ConfigurationError(f"rank {rank} is not one of {plan.size} ranks")
        if not 0 <= start_step <= plan.num_steps:
            raise ConfigurationError(f"start_step: the epoch has {plan.num_steps} steps, {start_step} is none of them")
        if prefetch < 0:
            raise ConfigurationError(f"prefetch: 0 or more batches are read ahead, not {prefetch}")
        self._directory = os.fspath(directory)
        self._manifest = manifest
        self._plan = plan
        self._rank = rank
        self._start_step = start_step
        self._prefetch = prefetch
        self._roles = [role for role in ROLES if manifest.of(role)]

    def __len__(self) -> int:
        return self._plan.num_steps - self._start_step

    def __iter__(self) -> Iterator[Batch]:
        steps = iter(range(self._start_step, self._plan.num_steps))
        with _GroupReader(self._directory, self._manifest) as reader:
            if not self._prefetch:
                for step in steps:
                    yield self._load(reader, step)
                return
            pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hvdspark-batches")
            try:
                waiting: deque[Future[Batch]] = deque()
                waiting.extend(pool.submit(self._load, reader, step) for step in islice(steps, self._prefetch))
                while waiting:
                    batch = waiting.popleft().result()
                    waiting.extend(pool.submit(self._load, reader, step) for step in islice(steps, 1))
                    yield batch
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _load(self, reader: "_GroupReader", step: int) -> Batch:
        pieces = self._plan.pieces(self._rank, step)
        arrays = reader.empty()
        if pieces:
            parts = [(reader.group(group), rows) for group, rows in pieces]
            arrays = [
                _join([np.take(group[number], rows, axis=0) for group, rows in parts]) for number in range(len(arrays))
            ]
        tensors = [torch.from_numpy(array) for array in arrays]
        forms: dict[Role, Any] = {role: natural(self._manifest.fields, role, tensors) for role in self._roles}
        return Batch(
            features=forms["feature"],
            labels=forms["label"],
            features_mask=forms.get("features_mask"),
            labels_mask=forms.get("labels_mask"),
            weights=forms.get("weight"),
            examples=len(arrays[0]),
            total_examples=self._plan.total_examples(step),
            step=step,
        )


def _join(parts: list[NDArray[Any]]) -> NDArray[Any]:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


class _GroupReader:
    """Decoded row groups of a staged data set; owns the open files. Used by one thread at a time."""

    def __init__(self, directory: str, manifest: Manifest) -> None:
        self._directory = directory
        self._manifest = manifest
        self._files: OrderedDict[str, Any] = OrderedDict()
        self._groups: OrderedDict[int, list[NDArray[Any]]] = OrderedDict()

    def empty(self) -> list[NDArray[Any]]:
        """Return the arrays of no row."""
        return [np.empty((0, *field.shape), field.dtype) for field in self._manifest.fields]

    def group(self, group: int) -> list[NDArray[Any]]:
        """Return a row group's arrays in the order of the fields, read-only."""
        if group not in self._groups:
            if len(self._groups) == _MAX_GROUPS:
                self._groups.popitem(last=False)  # before reading: never more are held
            self._groups[group] = self._read(group)
        self._groups.move_to_end(group)
        return self._groups[group]

    def _read(self, group: int) -> list[NDArray[Any]]:
        file, index = self._manifest.locate(group)
        rows = self._manifest.rows_per_group[group]
        try:
            # One thread: the machine's other cores belong to the other ranks and to the training itself.
            fields = self._manifest.fields
            table = self._open(file).read_row_group(index, columns=[field.key for field in fields], use_threads=False)
            return [_decode(table.column(field.key), field, rows) for field in fields]
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

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for file in self._files.values():
            file.close(force=True)
        self._files.clear()
        self._groups.clear()


def _check(path: str, file: StagedFile) -> None:
    with _checking:
        if (path, file.checksum) in _checked:
            return
        if storage.checksum(path) != file.checksum:
            raise StorageError(f"{path} has changed since it was staged: stage the data again")
        _checked.add((path, file.checksum))


def _decode(column: Any, field: Field, rows: int) -> NDArray[Any]:
    array = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks)
    if pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    decoded: NDArray[Any] = array.to_numpy(zero_copy_only=True)
    if field.dtype == "bool":
        decoded = decoded.view(np.bool_)
    if decoded.dtype != field.dtype:
        raise ValueError(f"column {field.key} is {decoded.dtype}, the manifest says {field.dtype}")
    return decoded.reshape(rows, *field.shape)
