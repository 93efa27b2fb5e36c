"""``exchange="auto"``: try codes and dense sums in the first steps, and go on with what took less time.

Agarwal et al., "On the Utility of Gradient Compression in Distributed Training Systems", MLSys 2022: on fast networks
compression seldom pays; it must switch itself off where it cannot win.
"""

from __future__ import annotations

import logging
import statistics
import time
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hvdspark.collectives import Collective
from hvdspark.errors import ConfigurationError
from hvdspark.sync.base import Exchange, Vector
from hvdspark.sync.coded import CodedExchange
from hvdspark.sync.dense import DenseExchange
from hvdspark.sync.handshake import gather_numbers
from hvdspark.sync.part import Part

__all__ = ["AutoExchange"]

_TRIALS = 4  # exchanges of each kind; the first compiles and touches memory, and does not count
_NAMES = ("codec", "dense")
_KEYS = {"coded", "taken", "choice"}


class AutoExchange(Exchange):
    """Measures both ways in the first eight exchanges, four each; the slowest rank counts.

    A dense exchange also carries what the codec has kept back, so that a change loses nothing. Once that is gone, and
    dense is what was chosen, it is a dense exchange and no more; as there, a step that fails is nobody's.

    Parameters
    ----------
    collective : Collective
        The ranks.
    coded : CodedExchange
        One way.
    dense : DenseExchange
        The other.

    Attributes
    ----------
    choice : str or None
        "codec" or "dense"; None while both are tried.
    """

    def __init__(self, collective: Collective, coded: CodedExchange, dense: DenseExchange) -> None:
        self._collective = collective
        self._coded = coded
        self._dense = dense
        self._taken: dict[str, list[float]] = {name: [] for name in _NAMES}
        self._last = _NAMES[0]
        self._is_clean = True  # the residual holds nothing
        self.device = coded.device
        self.choice: str | None = None

    @property
    def residual(self) -> Vector:  # type: ignore[override]  # the encoder owns it
        """What is kept back, `[n] float32`; zeros after a dense exchange."""
        return self._coded.residual

    @property
    def sent(self) -> NDArray[np.int32] | None:  # type: ignore[override]  # the encoder owns it
        """What was last sent; None: everything."""
        return self._coded.sent if self._last == "codec" else None

    def add_total(self, vector: Vector, out: Vector, scale: float, *, part: Part) -> None:
        """Add by the way whose turn it is, or that was chosen."""
        self._last = self._turn()
        begin = time.perf_counter()
        if self._last == "codec":
            self._is_clean = False
            self._coded.add_total(vector, out, scale, part=part)
        elif self._is_dense_alone(out):
            self._dense.add_total(vector, out, scale, part=part)
        else:
            self._add_all(vector, out, scale, part)
        self._note(time.perf_counter() - begin)

    def add_difference(self, before: Vector, after: Vector, out: Vector, scale: float, *, part: Part) -> None:
        """Add by the way whose turn it is, or that was chosen."""
        self._last = self._turn()
        begin = time.perf_counter()
        if self._last == "codec":
            self._is_clean = False
            self._coded.add_difference(before, after, out, scale, part=part)
        elif self._is_dense_alone(out):
            self._dense.add_difference(before, after, out, scale, part=part)
        else:
            with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is found in the sum
                difference = before - after
            self._add_all(difference, out, scale, part)
        self._note(time.perf_counter() - begin)

    def _is_dense_alone(self, out: Vector) -> bool:
        """Tell whether there is nothing to carry along, and nothing to bring to the host."""
        return self.choice == "dense" and self._is_clean and isinstance(out, np.ndarray)

    def _add_all(self, vector: Vector, out: Vector, scale: float, part: Part) -> None:
        """Send the vector and the residual, dense; if that fails the residual holds both, if they are finite."""
        residual, joined = torch.as_tensor(self._coded.residual), torch.as_tensor(out)
        total = residual + torch.as_tensor(vector)
        sent, copy = total.cpu().clone(), joined.cpu()
        try:
            self._dense.add_total(sent.numpy(), copy.numpy(), scale, part=part)
        except BaseException:
            if bool(torch.isfinite(total).all()):
                residual.copy_(total)
                self._is_clean = False
            raise
        joined.copy_(copy)
        residual.zero_()
        self._is_clean = True

    def _turn(self) -> str:
        if self.choice is not None:
            return self.choice
        return next(name for name in _NAMES if len(self._taken[name]) < _TRIALS)

    def _note(self, seconds: float) -> None:
        """Note how long it took; when both have been tried, decide, on all ranks alike."""
        if self.choice is not None:
            return
        self._taken[self._last].append(seconds)
        if any(len(taken) < _TRIALS for taken in self._taken.values()):
            return
        mine = np.array([statistics.median(self._taken[name][1:]) for name in _NAMES], np.float64)
        slowest = np.max(gather_numbers(self._collective, mine), axis=0)
        self.choice = _NAMES[int(np.argmin(slowest))]
        if self._collective.rank == 0:
            logging.getLogger("hvdspark").info(
                'exchange="auto" goes on with %s: %.2f ms by codec, %.2f ms dense (medians of %d, slowest rank)',
                self.choice, *(1e3 * slowest), _TRIALS - 1,
            )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the codec, what was measured, and what was chosen."""
        taken = {name: list(taken) for name, taken in self._taken.items()}
        return {"coded": self._coded.state_dict(), "taken": taken, "choice": self.choice}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        if set(state) != _KEYS or state["choice"] not in (None, *_NAMES) or set(state["taken"]) != set(_NAMES):
            raise ConfigurationError(f'this is no state of exchange="auto": it has {sorted(state)}')
        self._coded.load_state_dict(state["coded"])
        self._is_clean = False  # whatever it was: the next dense exchange sees to it
        self._taken = {name: [float(seconds) for seconds in state["taken"][name]] for name in _NAMES}
        self.choice = state["choice"]

    def measures(self) -> dict[str, float]:
        """Return those of the way that was chosen, of the codec while both are tried."""
        return self._dense.measures() if self.choice == "dense" else self._coded.measures()
