"""Exchanges under way while the next step computes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import Future

import torch

from hvdspark.collectives import Collective
from hvdspark.sync.base import Exchange
from hvdspark.sync.flat import as_array
from hvdspark.sync.part import Part
from hvdspark.sync.traffic import Traffic

__all__ = ["InFlight"]


class InFlight:
    """One exchange at a time, on a thread of the collective's; what else uses the collective meanwhile waits for it.

    Parameters
    ----------
    collective : Collective
        The ranks.
    exchange : Exchange
        By which way.
    scale : float
        Applied to each rank's part.
    traffic : Traffic
        Where bytes are counted.
    like : torch.Tensor
        `[n] float32`.
    followers : sequence of callable
        Called after each exchange, on its thread, with a weight of one.
    finish : callable
        Lands what is under way and applies it; called when the collective is closed before somebody has.

    Attributes
    ----------
    vector : torch.Tensor
        `[n] float32`: what is sent next; not to be touched while it is under way.
    """

    def __init__(
        self,
        collective: Collective,
        exchange: Exchange,
        scale: float,
        traffic: Traffic,
        like: torch.Tensor,
        followers: Sequence[Callable[[float], None]],
        finish: Callable[[], None],
    ) -> None:
        self._collective = collective
        self._exchange = exchange
        self._scale = scale
        self._traffic = traffic
        self._followers = followers
        self._finish = finish
        self.vector, self._sum = torch.empty_like(like), torch.empty_like(like)
        self._loaded: Part | None = None
        self._flight: Future[None] | None = None
        self._landed = False

    @property
    def is_under_way(self) -> bool:
        """Whether there is something to `land`."""
        return self._flight is not None or self._landed

    def load(self, part: Part) -> None:
        """Say that `vector` is ready, and how many examples it stands for."""
        self._loaded = part

    def launch(self) -> None:
        """Send what was loaded, if anything was, and return at once."""
        if self._loaded is not None:
            part, self._loaded = self._loaded, None
            self._flight = self._collective.start(functools.partial(self._fly, part))
            self._collective.unfinished.append(self._finish)

    def _fly(self, part: Part) -> None:
        with self._traffic.counted(), torch.no_grad():
            self._sum.zero_()
            self._exchange.add_total(as_array(self.vector), as_array(self._sum), self._scale, part=part)
            for follow in self._followers:
                follow(1.0)

    def land(self) -> torch.Tensor:
        """Wait, and return the sum over ranks, `[n] float32`, valid until the next launch; or raise what went wrong."""
        self.wait()
        self._collective.unfinished.remove(self._finish)
        self._landed = False
        return self._sum

    def wait(self) -> torch.Tensor | None:
        """Wait, and return the sum over ranks, which stays to be landed; None if nothing is under way."""
        flight, self._flight = self._flight, None
        if flight is not None:
            try:
                flight.result()
            except BaseException:
                self._collective.unfinished.remove(self._finish)
                raise
            self._landed = True
        return self._sum if self._landed else None

    def settle(self) -> None:
        """Wait until nothing touches the exchange any more, whatever came of it; that stays to be landed."""
        if self._flight is not None:
            self._flight.exception()

    def restore(self, total: torch.Tensor | None) -> None:
        """Go on where `wait` returned this; what is under way is forgotten, also what went wrong with it."""
        self.settle()
        if self.is_under_way:
            self._collective.unfinished.remove(self._finish)
        self._flight = None
        self._landed = total is not None
        if total is not None:
            self._collective.unfinished.append(self._finish)
            self._sum.copy_(total)
