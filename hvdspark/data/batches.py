"""One rank's batches of an epoch, read ahead of time."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hvdspark.data.fields import ROLES, Role, natural
from hvdspark.data.plan import EpochPlan
from hvdspark.data.row_groups import GroupReader, RowGroups
from hvdspark.errors import ConfigurationError

__all__ = ["Batch", "Batches"]

Tensors = torch.Tensor | tuple[torch.Tensor, ...] | dict[str, torch.Tensor]
Masks = torch.Tensor | tuple[torch.Tensor | None, ...] | dict[str, torch.Tensor] | None


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
    groups
        Where the rows lie.
    plan
        The epoch, made from ``groups.rows_per_group``.
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
        While iterating: a group cannot be read.
    """

    def __init__(
        self,
        groups: RowGroups,
        plan: EpochPlan,
        rank: int,
        *,
        start_step: int = 0,
        prefetch: int = 2,
    ) -> None:
        if plan.rows_per_group != groups.rows_per_group:
            raise ConfigurationError("the plan was not made from these row groups")
        if not 0 <= rank < plan.size:
            raise ConfigurationError(f"rank {rank} is not one of {plan.size} ranks")
        if not 0 <= start_step <= plan.num_steps:
            raise ConfigurationError(f"start_step: the epoch has {plan.num_steps} steps, {start_step} is none of them")
        if prefetch < 0:
            raise ConfigurationError(f"prefetch: 0 or more batches are read ahead, not {prefetch}")
        self._groups = groups
        self._plan = plan
        self._rank = rank
        self._start_step = start_step
        self._prefetch = prefetch
        self._roles = [role for role in ROLES if any(field.role == role for field in groups.fields)]

    def __len__(self) -> int:
        return self._plan.num_steps - self._start_step

    def __iter__(self) -> Iterator[Batch]:
        steps = iter(range(self._start_step, self._plan.num_steps))
        with self._groups.open() as reader:
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

    def _load(self, reader: GroupReader, step: int) -> Batch:
        pieces = self._plan.pieces(self._rank, step)
        fields = self._groups.fields
        arrays = [np.empty((0, *field.shape), field.dtype) for field in fields]
        if pieces:
            parts = [(reader.group(group), rows) for group, rows in pieces]
            arrays = [
                _join([np.take(group[number], rows, axis=0) for group, rows in parts]) for number in range(len(arrays))
            ]
        tensors = [torch.from_numpy(array) for array in arrays]
        forms: dict[Role, Any] = {role: natural(fields, role, tensors) for role in self._roles}
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
