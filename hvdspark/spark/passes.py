"""One pass of a network over all rows of a source: each partition gives bytes, the driver merges them."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

import torch

from hvdspark.data import Inspected, Inspection, Role, Rows, Source, check_fields, check_problems, natural
from hvdspark.data import workers_explained as explained
from hvdspark.errors import (
    ConfigurationError,
    DataError,
    HvdsparkError,
    ModelError,
    NonFiniteError,
    StorageError,
    UnsupportedError,
)
from hvdspark.masters import Parcel, forget, inferring, is_fatal
from hvdspark.network import Network
from hvdspark.spark.slots import Slots

__all__ = ["Emitted", "Work", "check_batch_size", "emitted", "known_to_numpy", "of_size", "read_outputs", "run_pass"]

_KNOWN = (ConfigurationError, DataError, ModelError, NonFiniteError, StorageError, UnsupportedError)
_ERRORS: dict[str, type[HvdsparkError]] = {each.__name__: each for each in _KNOWN}
_LOST = "a GPU failed for good, and with it the Python worker"  # found again in what Spark makes of the error

Work: TypeAlias = Callable[[Network, Iterator[Rows]], bytes]
"""What is made of the rows of a partition that has some; the network is in evaluation mode."""


class Emitted(NamedTuple):
    """A batch that went through a network; each part in the form in which modules and losses take it."""

    output: Any
    """What the module emitted, `[b, ...]`; a tuple with several outputs."""
    labels: Any
    labels_mask: Any
    weights: torch.Tensor | None
    size: int
    """Its examples, b."""


def run_pass(
    source: Source, network: Network, work: Work, slots: Slots, *, omitted: frozenset[Role], device: str
) -> list[bytes]:
    """Run some work on every partition of a source that has rows.

    Parameters
    ----------
    source
        The rows; with labels.
    network
        What travels to the workers: each task opens a copy while it holds a slot, and drops it afterwards.
    work
        What is done; it must be able to travel.
    slots
        How many copies a host holds at once.
    omitted
        Roles whose fields the work does not look at: nobody needs to have a use for them.
    device
        Where it is done, as of `Parcel`.

    Returns
    -------
    list of bytes
        What the work returned, in the order of the partitions.

    Raises
    ------
    DataError
        If rows cannot be read, or there is none; one error for the whole source.
    HvdsparkError
        What the work raised; what the user's module, loss or metric raised is a ModelError that holds its traceback.
    """
    if source.roles is not None:
        network.check_roles([role for role in source.roles if role not in omitted])
    with explained(), _lost_gpus_told():
        texts = source.run(_Task(Parcel(network, device), work, slots, omitted))
    outcomes = sorted((_Outcome.from_json(text) for text in texts), key=lambda each: each.rows.partition)
    check_problems([each.rows for each in outcomes], source.noun)
    found = [each for each in outcomes if each.rows.num_rows]
    if found:  # before errors: rows of other shapes are what causes them
        check_fields([each.rows for each in found], source.noun)
    for each in outcomes:
        if each.error:
            raise _ERRORS[each.error](each.text)
    if not found:
        raise DataError(f"{source.name} is empty: there is no row to evaluate. Look at the filters and joins before it")
    return [each.part for each in found]


def emitted(network: Network, source: Iterable[Rows], batch_size: int) -> Iterator[Emitted]:
    """Run rows through a network where it lies, without gradients, `batch_size` at a time and the rest at the end."""
    for rows in of_size(source, batch_size):
        with inferring(network) as device:
            tensors = [_on(device, array) for array in rows.arrays]

            def of(role: Role, rows: Rows = rows, tensors: list[torch.Tensor] = tensors) -> Any:
                return natural(rows.fields, role, tensors)

            output = network.emit(of("feature"), of("features_mask"))
        yield Emitted(output, of("label"), of("labels_mask"), of("weight"), rows.num_rows)


def _on(device: torch.device, array: Any) -> torch.Tensor:
    # from_numpy would warn of Arrow's read-only memory, which a module may not write to: each part is copied
    if device.type == "cpu":
        return torch.tensor(array)
    return torch.tensor(array, pin_memory=device.type == "cuda").to(device, non_blocking=True)


def read_outputs(network: Network, output: Any, *, several: bool) -> tuple[torch.Tensor, ...]:
    """Return what a network says, output by output: `[b, ...]` probabilities or values that NumPy can hold.

    Parameters
    ----------
    network
        It knows how to read what its module emits.
    output
        What it emitted for a batch.
    several
        Whether several outputs are understood.

    Raises
    ------
    ModelError
        If there are more outputs than are understood, or one is no tensor.
    """
    with inferring(network):
        readable = network.readable(output)
    found = tuple(readable) if isinstance(readable, tuple | list) else (readable,)
    if len(found) > 1 and not several:
        raise ModelError(
            f"the network says {len(found)} things of each row, and one can be predicted: give "
            "Network(output=...), which picks one or joins them, or use SparkComputationGraph"
        )
    strange = [type(each).__name__ for each in found if not isinstance(each, torch.Tensor)]
    if strange or not found:
        raise ModelError(
            f"the network says a {[*strange, 'tuple'][0]}: a tensor is needed, or a tuple with one for each output"
        )
    return tuple(known_to_numpy(each).cpu() for each in found)


def known_to_numpy(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor in a dtype that NumPy has: it has no bfloat16."""
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor


def of_size(source: Iterable[Rows], size: int) -> Iterator[Rows]:
    """Yield the same rows, `size` at a time and the rest at the end; all must have the same fields."""
    import numpy as np

    waiting: list[Rows] = []
    count = 0
    for rows in source:
        start = 0
        while start < rows.num_rows:
            end = min(rows.num_rows, start + size - count)
            waiting.append(Rows(end - start, rows.fields, tuple(array[start:end] for array in rows.arrays)))
            count, start = count + end - start, end
            if count == size:
                yield _joined(waiting, np.concatenate)
                waiting, count = [], 0
    if waiting:
        yield _joined(waiting, np.concatenate)


def check_batch_size(batch_size: int) -> None:
    """Refuse what is no number of examples."""
    if batch_size < 1:
        raise ConfigurationError(f"batch_size: at least 1 is needed, not {batch_size}")


@contextlib.contextmanager
def _lost_gpus_told() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        _, lost, told = str(error).partition(_LOST)
        if lost:
            raise ModelError(lost + told) from None
        raise


def _joined(pieces: list[Rows], concatenate: Callable[[list[Any]], Any]) -> Rows:
    if len(pieces) == 1:
        return pieces[0]
    arrays = tuple(concatenate(list(each)) for each in zip(*(rows.arrays for rows in pieces), strict=True))
    return Rows(sum(rows.num_rows for rows in pieces), pieces[0].fields, arrays)


@dataclass(frozen=True)
class _Outcome:
    """What became of a partition: a part (empty: it has no row), or an error."""

    rows: Inspected
    part: bytes = b""
    error: str = ""
    text: str = ""

    def to_json(self) -> str:
        part = base64.b64encode(self.part).decode()
        return json.dumps({"rows": self.rows.facts(), "part": part, "error": self.error, "text": self.text})

    @classmethod
    def from_json(cls, text: str) -> _Outcome:
        facts = json.loads(text)
        rows = Inspected.from_facts(facts["rows"])
        return cls(rows, base64.b64decode(facts["part"]), facts["error"], facts["text"])


@dataclass(frozen=True)
class _Task:
    """What a worker does with a partition; errors come back as data, so that they arrive as themselves.

    Only one after which the process can use its GPU no more is raised: Spark ends the worker, and starts another.
    """

    parcel: Parcel
    work: Work
    slots: Slots
    omitted: frozenset[Role]

    def __call__(self, source: Iterable[Rows], partition: int) -> list[str]:
        inspection = Inspection()
        part, kind, text = b"", "", ""
        with contextlib.ExitStack() as held:
            try:
                part = self._part(inspection.passing(source), held)
            except Exception as error:  # noqa: BLE001 - also of the user's module, loss or metric
                kind, text = _told(error, partition)
                if is_fatal(error):
                    raise ModelError(f"{_LOST}: {text}") from None
        return [_Outcome(inspection.result(partition), part, kind, text).to_json()]

    def _part(self, rows: Iterator[Rows], held: contextlib.ExitStack) -> bytes:
        first = next(rows, None)
        if first is None:  # no copy of the model for a partition without rows
            return b""
        held.enter_context(self.slots.hold())
        held.callback(forget)  # while the slot is held, and after errors whose frames hold network and batches
        return self._found(first, rows)

    def _found(self, first: Rows, more: Iterator[Rows]) -> bytes:
        network = self.parcel.open()
        network.module.eval()
        network.check_roles([field.role for field in first.fields if field.role not in self.omitted])
        return self.work(network, itertools.chain([first], more))


def _told(error: Exception, partition: int) -> tuple[str, str]:
    if isinstance(error, _KNOWN):
        return type(error).__name__, str(error)
    told = "".join(traceback.format_exception(error))
    return ModelError.__name__, f"{type(error).__name__} in partition {partition}: {error}\n\n{told}"
