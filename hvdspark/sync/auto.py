"""``exchange="auto"``: try codes, dense sums and float16 in the first steps, and go on with what took the least time.

Agarwal et al., "On the Utility of Gradient Compression in Distributed Training Systems", MLSys 2022: on fast networks
compression seldom pays; it must switch itself off where it cannot win.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hvdspark.collectives import Collective
from hvdspark.errors import ConfigurationError
from hvdspark.sync.base import Exchange, Vector
from hvdspark.sync.handshake import gather_numbers
from hvdspark.sync.part import Part

__all__ = ["AutoExchange"]

_TRIALS = 4  # exchanges of each kind; the first compiles and touches memory, and does not count
_KEYS = {"ways", "holder", "taken", "choice"}


class AutoExchange(Exchange):
    """Measures several ways in the first exchanges, four of each; the slowest rank counts.

    What one way has kept back is handed to the next, so that a change loses nothing. A way that keeps nothing back, the
    dense one, sends it along; once nothing is left, and dense is what was chosen, it is a dense exchange and no more. A
    dense step that fails is nobody's, as ever; what had been kept back before is kept.

    Parameters
    ----------
    collective : Collective
        The ranks.
    ways : mapping of str to Exchange
        By name, in the order in which they are tried; the first one keeps something back.

    Attributes
    ----------
    choice : str or None
        A name of `ways`; None while they are tried.
    """

    def __init__(self, collective: Collective, ways: Mapping[str, Exchange]) -> None:
        self._collective = collective
        self._ways = dict(ways)
        self._taken: dict[str, list[float]] = {name: [] for name in ways}
        self._holder = self._turn = next(iter(ways))  # who holds what is kept back, and whose turn it is
        self._last = self._ways[self._turn]
        self._is_clean = True  # nothing is
        self.device = self._ways[self._holder].device
        self.choice: str | None = None

    @property
    def residual(self) -> Vector:  # type: ignore[override]  # there is always one that has it
        """What is kept back, `[n] float32`; zeros after a dense exchange."""
        kept = self._ways[self._holder].residual
        assert kept is not None
        return kept

    @property
    def sent(self) -> NDArray[np.int32] | None:  # type: ignore[override]  # the exchanges own it
        """What was last sent; None: everything."""
        return self._last.sent

    def add_total(self, vector: Vector, out: Vector, scale: float, *, part: Part) -> None:
        """Add by the way whose turn it is, or that was chosen."""
        way = self._begin()
        begin = time.perf_counter()
        if self._can_take(way, out):
            way.add_total(vector, out, scale, part=part)
        else:
            self._add_all(way, vector, out, scale, part)
        self._note(time.perf_counter() - begin)

    def add_difference(self, before: Vector, after: Vector, out: Vector, scale: float, *, part: Part) -> None:
        """Add by the way whose turn it is, or that was chosen."""
        way = self._begin()
        begin = time.perf_counter()
        if self._can_take(way, out):
            way.add_difference(before, after, out, scale, part=part)
        else:
            with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is found where it is sent
                difference = before - after
            self._add_all(way, difference, out, scale, part)
        self._note(time.perf_counter() - begin)

    def _begin(self) -> Exchange:
        """Return the way whose turn it is, with what is kept back in its hands if it keeps anything."""
        self._turn = self.choice or next(name for name, taken in self._taken.items() if len(taken) < _TRIALS)
        self._last = way = self._ways[self._turn]
        if way.residual is not None:
            self._hand_to(self._turn)
            self._is_clean = False
        return way

    def _hand_to(self, name: str) -> None:
        if name == self._holder:
            return
        giver, taker = torch.as_tensor(self.residual), torch.as_tensor(self._ways[name].residual)
        taker.add_(giver.to(taker.device))
        giver.zero_()
        self._holder = name

    def _can_take(self, way: Exchange, out: Vector) -> bool:
        """Tell whether a way can take the vectors as they are: there is nothing to carry along, nothing to copy."""
        return torch.as_tensor(out).device.type == way.device.type and (way.residual is not None or self._is_clean)

    def _add_all(self, way: Exchange, vector: Vector, out: Vector, scale: float, part: Part) -> None:
        """Send a vector through the memory of the host, with what is kept back by another."""
        residual, joined = torch.as_tensor(self.residual), torch.as_tensor(out)
        total = torch.as_tensor(vector)
        carries = way.residual is None and not self._is_clean
        if carries:
            total = total + residual
        sent, copy = total.cpu().clone(), joined.cpu()
        way.add_total(sent.numpy(), copy.numpy(), scale, part=part)
        joined.copy_(copy)
        if carries:
            residual.zero_()
            self._is_clean = True

    def _note(self, seconds: float) -> None:
        """Note how long it took; when all have been tried, decide, on all ranks alike."""
        if self.choice is not None:
            return
        self._taken[self._turn].append(seconds)
        if any(len(taken) < _TRIALS for taken in self._taken.values()):
            return
        mine = np.array([statistics.median(taken[1:]) for taken in self._taken.values()], np.float64)
        slowest = np.max(gather_numbers(self._collective, mine), axis=0)
        self._choose(list(self._taken)[int(np.argmin(slowest))])
        if self._collective.rank == 0:
            measured = ", ".join(f"{name} {1e3 * each:.2f} ms" for name, each in zip(self._taken, slowest, strict=True))
            logging.getLogger("hvdspark").info(
                'exchange="auto" goes on with %s: %s (medians of %d, slowest rank)', self.choice, measured, _TRIALS - 1
            )

    def _choose(self, name: str) -> None:
        """Go on with one way, and let the memory of those go that nothing is left in."""
        self.choice = name
        if self._ways[name].residual is not None:
            self._hand_to(name)
        self._ways = {each: way for each, way in self._ways.items() if each in (name, self._holder)}

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the ways, what was measured, and what was chosen."""
        return {
            "ways": {name: way.state_dict() for name, way in self._ways.items()},
            "holder": self._holder,
            "taken": {name: list(taken) for name, taken in self._taken.items()},
            "choice": self.choice,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self._check(state)
        for name, saved in state["ways"].items():
            self._ways[name].load_state_dict(saved)
        self._holder = state["holder"]
        if state["choice"] is not None:
            self._choose(state["choice"])
        self._taken = {name: list(map(float, taken)) for name, taken in state["taken"].items()}
        self._is_clean = False  # whatever it was: the next dense exchange sees to it

    def _check(self, state: dict[str, Any]) -> None:
        """Refuse a state of another exchange, of other ways, or from before a choice that was made here."""
        if set(state) != _KEYS or set(state["taken"]) != set(self._taken):
            raise ConfigurationError(f'this is no state of exchange="auto" with {sorted(self._taken)}: {sorted(state)}')
        choice, holder, saved = state["choice"], state["holder"], set(state["ways"])
        expected = set(self._taken) if choice is None else {choice, holder}
        if saved != expected or holder not in saved:
            raise ConfigurationError(
                f'the state of exchange="auto" is damaged: it has {sorted(saved)}, chosen {choice}'
            )
        if self.choice not in (None, choice):
            raise ConfigurationError('exchange="auto" has chosen already: load the state into a new one')

    def measures(self) -> dict[str, float]:
        """Return those of the way that was last taken."""
        return self._last.measures()
