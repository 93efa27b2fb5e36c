"""The one mechanism of all synchronisers: local steps, then an exchange of what they came to, then the same weights.

Strom's and Deeplearning4j's gradient sharing is one local step and a threshold code; parameter averaging is several and
no code; local SGD with an outer optimizer (SlowMo, DiLoCo) stands between them.
"""

from __future__ import annotations

import abc
import contextlib
import importlib.metadata
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hvdspark.collectives import Collective
from hvdspark.errors import ConfigurationError, UnsupportedError
from hvdspark.sync.active import ActiveParameters
from hvdspark.sync.base import Exchange, SyncReport
from hvdspark.sync.flat import FlatParameters, as_array, frozen_parameters, parameters_of
from hvdspark.sync.handshake import agree_on_run_id, broadcast_tensors_, compare_facts, compare_fingerprints
from hvdspark.sync.hosts import open_hosts
from hvdspark.sync.outer import OuterStep
from hvdspark.sync.overlap import InFlight
from hvdspark.sync.part import Part
from hvdspark.sync.period import Period, count_examples, local_steps_at
from hvdspark.sync.phases import Phases
from hvdspark.sync.rules import Rules
from hvdspark.sync.saved import Kept, Saved
from hvdspark.sync.traffic import Traffic
from hvdspark.sync.wrapped import WrappedOptimizer

__all__ = ["Synchroniser"]


class Synchroniser(WrappedOptimizer, abc.ABC):
    """Wraps a rank's optimizer; after every exchange all ranks have the same weights, bit for bit.

    Abstract: a subclass says what is exchanged, and how.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        The rank's own.
    collective : Collective
        The ranks.
    rules : Rules
        How they come to agree.
    facts : dict
        What else must be equal on all ranks, by name.
    named_parameters : iterable of (str, Parameter), optional
        Names for error messages.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        collective: Collective,
        rules: Rules,
        facts: dict[str, Any],
        named_parameters: Iterable[tuple[str, nn.Parameter]] | None,
    ) -> None:
        super().__init__(optimizer)
        self._collective = collective
        self._rules = rules
        self._phases = Phases()
        self._steps = self._exchanges = self._verified = 0
        named = list(named_parameters or ())
        self._flat = FlatParameters(parameters_of(optimizer))
        frozen = frozen_parameters(optimizer, named)
        self._compare(frozen, facts)
        run_id = agree_on_run_id(collective)
        broadcast_tensors_(collective, [self._flat.weights, *frozen])
        self._active = ActiveParameters(collective, self._flat, self._phases, asks_on=rules.encode == "updates")
        self._hosts = open_hosts(collective, rules.topology)
        self._traffic = Traffic(collective, self._hosts)
        self._exchange, self._followers = self._open(run_id, named)
        self._agreed = torch.empty(self._flat.n, dtype=torch.float32, device=self._exchange.device)
        self._outer = None if rules.outer is None else OuterStep(rules.outer, self._agreed)
        is_late = rules.overlap == "next_step" and collective.size > 1
        late = (collective, self._exchange, self._scale, self._traffic, self._agreed, self._followers, self._land)
        self._flight = InFlight(*late) if is_late else None
        self._gradient = torch.empty_like(self._flat.weights) if rules.encode == "gradients" else None
        self._period: Period | None = None  # None: the ranks agree
        self._resumed_from: int | None = None  # checksum of the weights that a state in the middle of one goes with

    @abc.abstractmethod
    def _open(
        self, run_id: int, named: list[tuple[str, nn.Parameter]]
    ) -> tuple[Exchange, Sequence[Callable[[float], None]]]:
        """Make the exchange; and what follows an agreement, each called with this rank's weight in it."""

    def _compare(self, frozen: list[nn.Parameter], facts: dict[str, Any]) -> None:
        own = {
            "hvdspark": importlib.metadata.version("hvdspark"),
            "synchroniser": type(self).__name__,
            "parameter shapes": [list(p.shape) for p in self._flat.parameters],
            "parameters of each group": [len(group["params"]) for group in self._optimizer.param_groups],
            "frozen parameters": [(list(p.shape), str(p.dtype)) for p in frozen],
            "optimizer": type(self._optimizer).__name__,
        }
        compare_facts(self._collective, {**own, **self._rules.facts(), **facts})

    # ---- a step ------------------------------------------------------------------------------------------------

    def step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        examples: int | None = None,
        total_examples: int | None = None,
    ) -> Any:
        """Take one step together with all ranks; with `local_steps` above 1 they meet at the end of a period only.

        What was done to the weights since the last agreement and before this step stays done, as with any torch
        optimizer, provided that all ranks did the same; in the middle of a period call `synchronise` first, else it
        counts as part of the local steps. A parameter that has had a gradient before and has none now counts as having
        one of zeros.

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model and returns the loss, as for any torch optimizer.
        examples : int, optional
            How many examples this rank's gradient is the mean of: ranks weigh by it (under ``combine="mean"``). None on
            all ranks: they weigh the same. A rank without examples calls `step(examples=0)` without gradients.
        total_examples : int, optional
            The sum of `examples` over all ranks, where the caller knows it; else one more small exchange finds it.

        Raises
        ------
        NonFiniteError
            This rank's update or gradient is not finite (named by parameter), or without a codec the sum.
        RankLost
            Another rank could not send its part, or is gone.
        RankMismatch
            Ranks call with other arguments, or their weights differ.

        After an error the weights are those of the last agreement (unless it is that ranks' weights differ), and
        nothing that was to be sent is lost from a residual; but the optimizer's own state may have moved, and may hold
        NaN. What the wrapped optimizer raises on one rank ends the collective: the others get RankLost.
        """
        part = Part.checked(examples, total_examples)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._flat.check_bound(self._optimizer)
        self._check_resumed()
        self._land()
        with self._traffic.counted(), torch.no_grad():
            if not self._may_step(self._collective, self._flat):
                return loss
            if self._is_alone:
                self._optimizer.step()  # w - (w - w') is not w' to the last bit: alone, nothing is exchanged
            elif self._rules.encode == "updates":
                self._step_updates(part, self._active.agree())
            else:
                self._step_gradients(part, self._active.agree())
            self._steps += 1
            self._verify_now_and_then()
        if self._flight is not None:
            self._flight.launch()
        return loss

    def synchronise(self) -> None:
        """Bring the ranks together in the middle of a period, so that all have the same weights; else do nothing.

        All ranks call it at the same step, before they evaluate or save the model. With ``overlap="next_step"`` it also
        applies what is under way; closing the collective does so too.
        """
        self._land()
        if self._period is not None:
            self._check_resumed()
            with self._traffic.counted(), torch.no_grad():
                self._meet(self._period)

    @property
    def _is_alone(self) -> bool:
        return self._collective.size == 1 and self._outer is None

    @property
    def _scale(self) -> float:
        return 1.0 / self._collective.size if self._rules.combine == "mean" else 1.0

    def _step_updates(self, part: Part, active: NDArray[np.bool_]) -> None:
        if self._period is None:
            with self._phases.timed("update"):
                self._agreed.copy_(self._flat.weights)
            self._period = Period(local_steps_at(self._rules.schedule, self._steps))
        period = self._period
        with self._undone_on_error():
            if period.length == 1:  # else momentum would carry a step's weight into the next (docs/adr/0002)
                self._weigh_gradients(part)
            # A rank without examples steps as well: its momentum is part of the sum (docs/adr/0002).
            with self._phases.timed("update"):
                self._flat.zero_missing_gradients(active)
            self._step_alone()
        period.add(part)
        if period.is_over:
            self._meet(period)

    def _step_alone(self) -> None:
        """Take this rank's own step. If it fails, the others, who cannot know, must not wait or count on."""
        try:
            with self._phases.timed("update"):
                self._optimizer.step()
        except BaseException as error:
            if self._collective.size > 1:
                self._collective.abort(error)
            raise

    def _meet(self, period: Period) -> None:
        """Exchange what the local steps of a period came to, and go on from what was agreed."""
        weight = 1.0
        with self._undone_on_error():
            if period.length > 1 and self._rules.combine == "mean":
                with self._phases.timed("exchange"):
                    weight = period.weight(self._collective)
            local = self._flat.weights.detach().to(self._agreed.device)
            if weight != 1.0:
                local = torch.lerp(self._agreed, local, weight)
            if self._flight is not None:
                torch.sub(self._agreed, local, out=self._flight.vector)
                self._flight.load(period.part)
                self._go_on()
                return
            before, after = as_array(self._agreed), as_array(local)
            if self._outer is None:
                self._exchange.add_difference(before, after, before, -self._scale, part=period.part)
            else:
                difference = as_array(self._outer.difference.zero_())
                self._exchange.add_difference(before, after, difference, self._scale, part=period.part)
                self._outer.apply(self._agreed)
        self._go_on()
        self._exchanges += 1
        for follow in self._followers:
            follow(weight)

    @torch.no_grad()
    def _land(self) -> None:
        """Apply what the last step has sent, if that is still under way; its thread counts the bytes."""
        if self._flight is not None and self._flight.is_under_way:
            with self._phases.timed("wait"):
                difference = self._flight.land()
            self._agreed.copy_(self._flat.weights)
            self._agreed.sub_(difference)
            self._go_on()
            self._exchanges += 1

    @contextlib.contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._go_on()
            raise

    def _go_on(self) -> None:
        """Take the weights that were agreed on; after an error they are still those of the last agreement."""
        with self._phases.timed("apply"):
            self._flat.weights.copy_(self._agreed)
        self._period = None

    def _step_gradients(self, part: Part, active: NDArray[np.bool_]) -> None:
        self._weigh_gradients(part)
        assert self._gradient is not None
        with self._phases.timed("update"):
            self._flat.gather_gradients(self._gradient)
            joined = self._agreed.zero_()  # not before: the last step left the gradients as views of it
        gradient = self._gradient.to(joined.device)
        self._exchange.add_total(as_array(gradient), as_array(joined), self._scale, part=part)
        with self._phases.timed("update"):
            self._flat.note_active(joined, active)
            self._flat.scatter_gradients(joined.to(self._gradient.device), active)
        self._step_alone()
        self._exchanges += 1

    def _weigh_gradients(self, part: Part) -> None:
        """Scale this rank's gradients so that the plain mean over ranks is the mean over examples."""
        if part.examples is not None and self._rules.combine == "mean":
            with self._phases.timed("exchange"):
                total = count_examples(self._collective, part)
            if total:
                self._flat.scale_gradients(self._collective.size * part.examples / total)

    # ---- weights -----------------------------------------------------------------------------------------------

    def fingerprint(self) -> int:
        """Compute a 32-bit checksum of this rank's weights."""
        return self._flat.fingerprint()

    def verify(self) -> None:
        """Compare the weights of all ranks by checksum.

        Raises
        ------
        RankMismatch
            On all ranks, if they differ; the message lists the checksums.
        ConfigurationError
            In the middle of a period, where they do.
        """
        if self._period is not None:
            raise ConfigurationError("in the middle of a period ranks differ: call synchronise() first")
        compare_fingerprints(self._collective, self.fingerprint(), self._steps)

    def _verify_now_and_then(self) -> None:
        every = self._rules.verify_every
        if every and self._period is None and self._steps - self._verified >= every:
            self.verify()
            self._verified = self._steps

    # ---- what torch expects of an optimizer --------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse new parameters: all ranks agreed on a set of them (allowed only while this is being built)."""
        if hasattr(self, "_flat"):
            raise UnsupportedError("parameters cannot be added after the optimizer was wrapped: wrap it again")
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return this rank's state: of the wrapped optimizer, of the exchange (residual, threshold), and counts.

        Each rank has its own, and must save its own; in the middle of a period its module too, whose weights are then
        this rank's alone (call `synchronise` first, and one module does for all). What torch keeps in it, such as
        momentum, is the optimizer's own memory: the next step changes it.
        """
        under_way = None if self._flight is None else self._flight.wait()
        return {
            "optimizer": self._optimizer.state_dict(),
            "exchange": self._exchange.state_dict(),
            "velocity": None if self._outer is None else self._outer.velocity.clone(),
            "period": self._period and (self._agreed.clone(), self.fingerprint(), *self._period.numbers()),
            "under_way": under_way if under_way is None else under_way.clone(),
            "steps": self._steps,
            "exchanges": self._exchanges,
            "rank": self._collective.rank,
            "size": self._collective.size,
            "bytes_sent": self._traffic.sent,
            "local_bytes": self._traffic.local,
            "active": self._active.as_list(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned on this rank; the weights themselves are the module's to load.

        Raises
        ------
        ConfigurationError
            If the state is another rank's, another optimizer's or damaged; nothing has changed then.
        """
        kept = Kept(
            type(self).__name__, self._collective.rank, self._collective.size, self._flat, self._outer is not None
        )
        state = Saved.read(state_dict, kept)
        before = self._exchange.state_dict()
        self._exchange.load_state_dict(state.exchange)
        try:
            self._optimizer.load_state_dict(state.optimizer)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            self._exchange.load_state_dict(before)
            raise ConfigurationError(f"the state is of another optimizer, or damaged: {error!r}") from error
        if self._outer is not None and state.velocity is not None:
            self._outer.velocity.copy_(state.velocity)
        self._period, self._resumed_from = state.period, state.fingerprint
        if state.agreed is not None:
            self._agreed.copy_(state.agreed)
        if self._flight is not None:
            self._flight.restore(state.under_way)
        self._active.flags = state.active
        self._steps, self._exchanges = state.steps, state.exchanges
        self._traffic.sent, self._traffic.local = state.bytes_sent, state.local_bytes
        self._verified = self._steps - self._steps % (self._rules.verify_every or 1)

    def _check_resumed(self) -> None:
        """Refuse to go on in the middle of a period with other weights than those it was left with."""
        if self._resumed_from is not None and self._resumed_from != self.fingerprint():
            raise ConfigurationError(
                "the module has other weights than this state goes with: in the middle of a period each rank has its "
                "own. Load this rank's own module, or call synchronise() before saving"
            )
        self._resumed_from = None

    def report(self) -> SyncReport:
        """Return bytes, density, threshold and seconds by phase, so far, on this rank."""
        return SyncReport(
            steps=self._steps,
            exchanges=self._exchanges,
            bytes_sent=self._traffic.sent,
            local_bytes=self._traffic.local,
            dense_bytes=4 * self._flat.n * self._steps,
            seconds=dict(self._phases.seconds),
            **self._exchange.measures(),
        )
