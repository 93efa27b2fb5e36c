"""One rank's batches of an epoch, read ahead of time."""

from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from hvdspark.data.fields import ROLES, Role, natural
from hvdspark.data.row_groups import RowGroups
from hvdspark.data.schedule import Plan
from hvdspark.data.stream import RowStream
from hvdspark.errors import ConfigurationError

__all__ = ["Batch", "Batches"]

Tensors = torch.Tensor | tuple[torch.Tensor, ...] | dict[str, torch.Tensor]
_DTYPES = {"float32": torch.float32, "int64": torch.int64, "uint8": torch.uint8, "bool": torch.bool}

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

    In memory are the rank's rows of one block of the plan, one decoded row group, and the batches read ahead.

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
    pin_memory
        Put batches into page-locked memory, from which a GPU copies them while the CPU goes on. It needs CUDA.

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
        plan: Plan,
        rank: int,
        *,
        start_step: int = 0,
        prefetch: int = 2,
        pin_memory: bool = False,
    ) -> None:
        if not 0 <= rank < plan.size:
            raise ConfigurationError(f"rank {rank} is not one of {plan.size} ranks")
        if plan.groups_of(rank) != groups.rows_per_group:
            raise ConfigurationError("the plan was not made from these row groups")
        if prefetch < 0:
            raise ConfigurationError(f"prefetch: 0 or more batches are read ahead, not {prefetch}")
        if pin_memory and not torch.cuda.is_available():
            raise ConfigurationError("pin_memory=True needs a CUDA device, and torch sees none: leave it out")
        self._groups = groups
        self._plan = plan
        self._rank = rank
        self._prefetch = prefetch
        self._pin_memory = pin_memory
        self._roles = [role for role in ROLES if any(field.role == role for field in groups.fields)]
        self._start(start_step)

    def __len__(self) -> int:
        return self._plan.num_steps - self._start_step

    @property
    def plan(self) -> Plan:
        """The epoch."""
        return self._plan

    @property
    def step(self) -> int:
        """The step of the batch that comes next, in the iteration that was begun last."""
        return self._step

    def state_dict(self) -> dict[str, Any]:
        """Return where the iteration that was begun last has come to, as plain values that JSON can hold.

        A batch counts as soon as it was handed out; those that are only read ahead do not.
        """
        return {"step": self._step, "plan": self._plan.facts()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make iterations start where the one was whose state this is.

        Raises
        ------
        ConfigurationError
            Where the state is one of other rows, or of another order of them.
        """
        facts = self._plan.facts()
        differs = [name for name, value in facts.items() if state["plan"].get(name) != value]
        if differs:
            before, now = state["plan"].get(differs[0]), facts[differs[0]]
            raise ConfigurationError(
                f"these batches cannot go on from that state: {differs[0]} was {before!r}, it is {now!r}"
            )
        self._start(state["step"])

    def _start(self, step: int) -> None:
        if not 0 <= step <= self._plan.num_steps:
            raise ConfigurationError(f"start_step: the epoch has {self._plan.num_steps} steps, {step} is none of them")
        self._start_step = self._step = step

    def __iter__(self) -> Iterator[Batch]:
        self._step = self._start_step
        steps = iter(range(self._start_step, self._plan.num_steps))
        with self._groups.open() as reader:
            rows = RowStream(reader, self._groups.fields, self._plan.blocks(self._rank, self._start_step))
            if not self._prefetch:
                for step in steps:
                    batch = self._load(rows, step)
                    self._step = step + 1
                    yield batch
                return
            pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="hvdspark-batches")
            try:
                waiting: deque[Future[Batch]] = deque()
                waiting.extend(pool.submit(self._load, rows, step) for step in islice(steps, self._prefetch))
                while waiting:
                    batch = waiting.popleft().result()
                    waiting.extend(pool.submit(self._load, rows, step) for step in islice(steps, 1))
                    self._step = batch.step + 1
                    yield batch
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

    def _load(self, rows: RowStream, step: int) -> Batch:
        fields = self._groups.fields
        examples = self._plan.examples(self._rank, step)
        tensors = [
            torch.empty((examples, *field.shape), dtype=_DTYPES[field.dtype], pin_memory=self._pin_memory)
            for field in fields
        ]
        rows.take_into([tensor.numpy() for tensor in tensors])
        forms: dict[Role, Any] = {role: natural(fields, role, tensors) for role in self._roles}
        return Batch(
            features=forms["feature"],
            labels=forms["label"],
            features_mask=forms.get("features_mask"),
            labels_mask=forms.get("labels_mask"),
            weights=forms.get("weight"),
            examples=examples,
            total_examples=self._plan.total_examples(step),
            step=step,
        )
