"""The optimizer's own state ("updater" in Deeplearning4j), averaged over ranks."""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hvdspark.collectives import Collective
from hvdspark.errors import NonFiniteError, RankMismatch, UnsupportedError
from hvdspark.sync.dense import DenseExchange
from hvdspark.sync.handshake import gather_numbers
from hvdspark.sync.hosts import Hosts
from hvdspark.sync.part import Part
from hvdspark.sync.phases import Phases

__all__ = ["UpdaterAverage"]

_AVERAGED = "averaged"
_AVERAGED_DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # in float32, and rounded to their own at the end


class UpdaterAverage:
    """Averages what an optimizer keeps for each parameter, and makes sure that its counts are equal.

    Averaged: floating tensors in the shape of their parameter (momentum, second moments). Compared: everything else,
    such as Adam's number of steps.

    Parameters
    ----------
    collective : Collective
        The ranks.
    optimizer : torch.optim.Optimizer
        This rank's.
    parameters : sequence of torch.nn.Parameter
        In the same order on all ranks.
    names : sequence of str
        What errors call them.
    phases : Phases
        Where the time is counted.
    hosts : Hosts, optional
        By which way: the ranks of a host first. None: all at once.
    """

    def __init__(
        self,
        collective: Collective,
        optimizer: torch.optim.Optimizer,
        parameters: Sequence[torch.nn.Parameter],
        names: Sequence[str],
        phases: Phases,
        hosts: Hosts | None = None,
    ) -> None:
        self._collective = collective
        self._optimizer = optimizer
        self._parameters = parameters
        self._names = names
        self._phases = phases
        self._hosts = hosts
        self._exchange: DenseExchange | None = None
        self._size = -1

    def average(self, weight: float) -> None:
        """Replace the state of all ranks by its mean.

        Parameters
        ----------
        weight : float
            By which this rank's state is multiplied before the plain mean is taken.

        Raises
        ------
        RankMismatch
            On all ranks: if they keep different things, or their counts differ.
        NonFiniteError
            On all ranks: if the mean is not finite.
        """
        tensors, facts = self._sorted_state()
        self._compare(facts)
        if not tensors:
            return
        flat = torch.cat([tensor.detach().reshape(-1).cpu().float() for tensor in tensors])
        if weight != 1.0:
            flat.mul_(weight)
        if self._exchange is None or self._size != flat.numel():
            self._exchange = DenseExchange(self._collective, flat.numel(), self._phases, self._hosts)
            self._size = flat.numel()
        mean = torch.zeros_like(flat)
        try:
            self._exchange.add_total(flat.numpy(), mean.numpy(), 1 / self._collective.size, part=Part())
        except NonFiniteError:
            place = int(torch.isfinite(flat).int().argmin())  # `flat` holds the sum by now
            raise NonFiniteError(_explained(place, tensors, facts, flat[place].item())) from None
        start = 0
        for tensor in tensors:
            tensor.copy_(mean[start : start + tensor.numel()].view(tensor.shape))
            start += tensor.numel()

    def _sorted_state(self) -> tuple[list[torch.Tensor], list[tuple[str, str, Any]]]:
        """Return what is averaged, and what is compared: parameter, key, value or kind."""
        tensors, facts = [], []
        for name, parameter in zip(self._names, self._parameters, strict=True):
            for key, value in sorted(self._optimizer.state.get(parameter, {}).items()):
                if isinstance(value, torch.Tensor) and value.is_floating_point() and value.shape == parameter.shape:
                    if value.is_sparse or value.dtype not in _AVERAGED_DTYPES:
                        raise UnsupportedError(
                            f"save_updater=True averages dense state of 16 and 32 bits; {key!r} of {name!r} is "
                            f"{'sparse' if value.is_sparse else value.dtype}: use save_updater=False"
                        )
                    if value.dim() or key != "step":  # Adam's step of a parameter that is a single number
                        tensors.append(value)
                        facts.append((name, key, f"{_AVERAGED} {value.dtype}"))
                        continue
                elif isinstance(value, torch.Tensor) and value.is_floating_point() and value.numel() > 1:
                    raise UnsupportedError(
                        f"save_updater=True averages state in the shape of its parameter; {key!r} of {name!r} has "
                        f"{list(value.shape)}, the parameter {list(parameter.shape)}: use save_updater=False"
                    )
                facts.append((name, key, _plain(value)))
        return tensors, facts

    def _compare(self, facts: list[tuple[str, str, Any]]) -> None:
        """Compare a checksum; only where it differs, say what."""
        text = json.dumps(facts).encode()
        with self._phases.timed("exchange"):
            found = gather_numbers(self._collective, np.array([zlib.crc32(text)], np.uint32))
            if len({int(each[0]) for each in found}) == 1:
                return
            stated = [json.loads(bytes(each)) for each in self._collective.allgather(np.frombuffer(text, np.uint8))]
        tables = [{(name, key): value for name, key, value in each} for each in stated]
        place = next(place for place in sorted(set().union(*tables)) if len({str(t.get(place)) for t in tables}) > 1)
        listed = ", ".join(f"rank {rank}: {table.get(place, 'nothing')}" for rank, table in enumerate(tables))
        raise RankMismatch(
            f"the ranks' optimizers keep different things, so they cannot be averaged: {place[1]!r} of {place[0]!r} "
            f"({listed}). All ranks must train the same parameters in the same steps; or use save_updater=False"
        )


def _explained(place: int, tensors: list[torch.Tensor], facts: list[tuple[str, str, Any]], value: float) -> str:
    """Say which tensor has the element that is not finite."""
    keys = [(name, key) for name, key, kind in facts if str(kind).startswith(_AVERAGED)]
    ends = np.cumsum([tensor.numel() for tensor in tensors])
    which = int(np.searchsorted(ends, place, side="right"))
    (name, key), inside = keys[which], place - int(ends[which]) + tensors[which].numel()
    return (
        f"the sum over all ranks of the optimizer's {key!r} is {value} at element {inside} of {name!r}: the weights "
        "were averaged, the optimizer's state is each rank's own. Lower the learning rate or clip the gradients"
    )


def _plain(value: Any) -> Any:
    """Return a value as JSON can carry it."""
    if isinstance(value, torch.Tensor):
        return value.tolist() if value.numel() <= 16 else [str(value.dtype), zlib.crc32(value.cpu().numpy().tobytes())]
    return value if isinstance(value, int | float | str | bool | None) else repr(value)
