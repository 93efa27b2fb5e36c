"""The end of a period: what the local steps of all ranks came to is exchanged, and all go on from what was agreed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from hvdspark.collectives import Collective
from hvdspark.errors import ConfigurationError
from hvdspark.sync.base import Exchange
from hvdspark.sync.flat import FlatParameters, as_array
from hvdspark.sync.handshake import gather_numbers
from hvdspark.sync.outer import OuterStep
from hvdspark.sync.overlap import InFlight
from hvdspark.sync.period import Period, local_steps_at
from hvdspark.sync.phases import Phases
from hvdspark.sync.rules import Rules
from hvdspark.sync.saved import Saved
from hvdspark.sync.traffic import Traffic

__all__ = ["Meeting"]


class Meeting:
    """Where ranks that have moved by themselves come to agree again.

    `begin` marks what they agreed on, `undone_on_error` goes back to it, and `meet` ends the period. With
    ``overlap="next_step"`` it ends in three parts: `meet` only puts down what is to be sent, `launch` sends it, and
    `land` applies it.

    Parameters
    ----------
    collective : Collective
        The ranks.
    rules : Rules
        How they come to agree.
    flat : FlatParameters
        The weights.
    exchange : Exchange
        By which way.
    followers : sequence of callable
        Called after each exchange with this rank's weight in it.
    traffic : Traffic
        Where exchanges and bytes are counted.
    phases : Phases
        Where the time is counted.

    Attributes
    ----------
    period : Period or None
        The one that ranks are in the middle of; None: they agree.
    """

    def __init__(
        self,
        collective: Collective,
        rules: Rules,
        flat: FlatParameters,
        exchange: Exchange,
        followers: Sequence[Callable[[float], None]],
        traffic: Traffic,
        phases: Phases,
    ) -> None:
        self._collective = collective
        self._rules = rules
        self._flat = flat
        self._exchange = exchange
        self._followers = followers
        self._traffic = traffic
        self._phases = phases
        self._scale = rules.scale(collective.size)
        n = flat.n if rules.encode == "updates" else 0  # where gradients are joined instead, no rank moves by itself
        self._agreed = torch.empty(n, dtype=torch.float32, device=exchange.device)
        self._outer = None if rules.outer is None else OuterStep(rules.outer, self._agreed)
        self._flight: InFlight | None = None
        if rules.overlap == "next_step" and collective.size > 1:
            self._flight = InFlight(collective, exchange, self._scale, traffic, self._agreed, followers, self.land)
        self.period: Period | None = None
        self._resumed_from: int | None = None  # checksum of the weights that a state in the middle of one goes with

    def begin(self, step: int) -> Period:
        """Return the period that a step belongs to; if ranks agree, it is the first of a new one."""
        if self.period is None:
            with self._phases.timed("update"):
                self._agreed.copy_(self._flat.weights)
            self.period = Period(local_steps_at(self._rules.schedule, step))
        return self.period

    @contextlib.contextmanager
    def undone_on_error(self) -> Iterator[None]:
        """Go back to the weights that were last agreed on if the block raises."""
        try:
            yield
        except BaseException:
            self._go_on()
            raise

    def look_ahead(self, step: int) -> None:
        """Set out from where the residual leads, if that was asked for: the next step may only now be computed.

        What is kept back counts for this rank meanwhile: it does not learn again what it has learned already. As in
        Xie et al., "CSER: Communication-efficient SGD with Error Reset", NeurIPS 2020, but for a share of it, and all
        ranks agree without it whenever they come together (docs/adr/0031).
        """
        share = float(self._rules.lookahead)
        if not share or self._exchange.residual is None or self.period is not None:
            return
        if local_steps_at(self._rules.schedule, step) > 1:
            self.begin(step).ahead = share
            with self._phases.timed("apply"):
                self._flat.weights.copy_(self._start(share))

    def _start(self, share: float) -> torch.Tensor:
        """Return where a rank sets out from that looks ahead by this share: ``[n] float32``, beside what was agreed."""
        return torch.sub(self._agreed, self._residual(), alpha=share)

    def _residual(self) -> torch.Tensor:
        return torch.as_tensor(self._exchange.residual, device=self._agreed.device)

    def _have_moved(self, period: Period) -> bool:
        """Tell whether any rank has done something to its weights since all looked ahead."""
        moved = not torch.equal(self._flat.weights.to(self._agreed.device), self._start(period.ahead))
        with self._phases.timed("exchange"):
            return any(each[0] for each in gather_numbers(self._collective, np.array([moved], np.uint8)))

    def meet(self, period: Period) -> None:
        """Exchange what the local steps of a period came to, and go on from what was agreed."""
        if not period.steps and not self._have_moved(period):  # ranks have looked ahead, and that is all
            self._go_on()
            return
        weight = 1.0
        with self.undone_on_error():
            if period.length > 1 and period.steps and self._rules.combine == "mean":
                with self._phases.timed("exchange"):
                    weight = period.part.weight(self._collective)
            local = self._flat.weights.detach().to(self._agreed.device)
            if period.ahead:  # from there it has moved; the residual has not changed since
                local = torch.add(local, self._residual(), alpha=period.ahead)
            if weight != 1.0:
                local = torch.lerp(self._agreed, local, weight)
            if self._flight is None:
                self._agree(local, period)
            else:
                torch.sub(self._agreed, local, out=self._flight.vector)
                self._flight.load(period.part)
        self._go_on()
        if self._flight is None:
            self._traffic.exchanges += 1
            for follow in self._followers:
                follow(weight)

    def _agree(self, local: torch.Tensor, period: Period) -> None:
        """Move the agreed weights by what all ranks have moved by, or by what the outer optimizer makes of it."""
        before, after = as_array(self._agreed), as_array(local)
        if self._outer is None:
            self._exchange.add_difference(before, after, before, -self._scale, part=period.part)
        else:
            difference = as_array(self._outer.difference.zero_())
            self._exchange.add_difference(before, after, difference, self._scale, part=period.part)
            self._outer.apply(self._agreed)

    def launch(self) -> None:
        """Send what `meet` has put down, if it did, while the next step computes."""
        if self._flight is not None:
            self._flight.launch()

    def land(self) -> None:
        """Apply what the last step has sent, if that is still under way; its thread counts the bytes."""
        if self._flight is None or not self._flight.is_under_way:
            return
        with self._phases.timed("wait"):
            difference = self._flight.land()
        with torch.no_grad():
            self._agreed.copy_(self._flat.weights)
            self._agreed.sub_(difference)
            self._go_on()
        self._traffic.exchanges += 1

    def _go_on(self) -> None:
        """Take the weights that were agreed on; after an error they are still those of the last agreement."""
        with self._phases.timed("apply"):
            self._flat.weights.copy_(self._agreed)
        self.period = None

    # ---- state -------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return the fields of a `Saved` that are of the meeting; waits for what is under way, and leaves it so."""
        under_way = None if self._flight is None else self._flight.wait()
        return {
            "velocity": None if self._outer is None else self._outer.velocity.clone(),
            "under_way": None if under_way is None else under_way.clone(),
            "period": self.period,
            "agreed": None if self.period is None else self._agreed.clone(),
            "fingerprint": None if self.period is None else self._flat.fingerprint(),
        }

    def settle(self) -> None:
        """Wait until nothing touches the exchange any more: a state is about to be loaded."""
        if self._flight is not None:
            self._flight.settle()

    def restore(self, saved: Saved) -> None:
        """Go on where `state` was returned."""
        if self._outer is not None and saved.velocity is not None:
            self._outer.velocity.copy_(saved.velocity)
        self.period, self._resumed_from = saved.period, saved.fingerprint
        if saved.agreed is not None:
            self._agreed.copy_(saved.agreed)
        if self._flight is not None:
            self._flight.restore(saved.under_way)

    def check_resumed(self) -> None:
        """Refuse to go on in the middle of a period with other weights than those it was left with."""
        if self._resumed_from is not None and self._resumed_from != self._flat.fingerprint():
            raise ConfigurationError(
                "the module has other weights than this state goes with: in the middle of a period each rank has its "
                "own. Load this rank's own module, or call synchronise() before saving"
            )
        self._resumed_from = None
