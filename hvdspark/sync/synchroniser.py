"""The one mechanism of all synchronisers: local steps, then an exchange of what they came to, then the same weights.

Strom's and Deeplearning4j's gradient sharing is one local step and a threshold code; parameter averaging is several and
no code; local SGD with an outer optimizer (SlowMo, DiLoCo) stands between them. Here is the step; how a period ends is
in meeting.py, and what is saved of it all in saved.py.
"""

from __future__ import annotations

import abc
import copy
import importlib.metadata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hvdspark.collectives import Collective
from hvdspark.errors import ConfigurationError
from hvdspark.sync.active import ActiveParameters
from hvdspark.sync.base import Exchange, SyncReport
from hvdspark.sync.flat import FlatParameters, frozen_parameters, parameters_of
from hvdspark.sync.gradients import JoinedGradients
from hvdspark.sync.handshake import agree_on_run_id, broadcast_tensors_, compare_facts, compare_fingerprints
from hvdspark.sync.hosts import open_hosts
from hvdspark.sync.meeting import Meeting
from hvdspark.sync.part import Part
from hvdspark.sync.phases import Phases, Record
from hvdspark.sync.rules import Rules
from hvdspark.sync.saved import Keeper, Saved
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
        self._steps = self._verified = 0
        named = list(named_parameters or ())
        self._flat = FlatParameters(parameters_of(optimizer))
        frozen = frozen_parameters(optimizer, named)
        self._compare(frozen, facts)
        run_id = agree_on_run_id(collective)
        broadcast_tensors_(collective, [self._flat.weights, *frozen])
        self._active = ActiveParameters(collective, self._flat, self._phases, asks_on=rules.encode == "updates")
        self._hosts = open_hosts(collective, rules.topology, rules.aggregation_depth)
        self._traffic = Traffic(collective, self._hosts)
        self._exchange, followers = self._open(run_id, named)
        self._meeting = Meeting(collective, rules, self._flat, self._exchange, followers, self._traffic, self._phases)
        self._gradients: JoinedGradients | None = None
        if rules.encode == "gradients":
            self._gradients = JoinedGradients(self._flat, self._exchange, rules.scale(collective.size), self._phases)
        name, has_outer = type(self).__name__, rules.outer is not None
        self._keeper = Keeper(name, collective.rank, collective.size, self._flat, has_outer)

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
        optimizer, provided that all ranks did the same; in the middle of a period (ranks that look ahead always are)
        call `synchronise` first, else it counts as part of the local steps. A parameter that has had a gradient before
        and has none now counts as having one of zeros.

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
        self._meeting.check_resumed()
        self._meeting.land()
        with self._traffic.counted(), torch.no_grad():
            if not self._may_step(self._collective, self._flat):
                return loss
            if self._is_alone:
                with self._phases.timed("update"):
                    self._optimizer.step()  # w - (w - w') is not w' to the last bit: alone, nothing is exchanged
            elif self._gradients is None:
                self._step_updates(part, self._active.agree())
            else:
                self._step_gradients(self._gradients, part, self._active.agree())
            self._steps += 1
            self._verify_now_and_then()
            self._meeting.look_ahead(self._steps)
        self._meeting.launch()
        return loss

    def synchronise(self) -> None:
        """Bring the ranks together in the middle of a period, so that all have the same weights; else do nothing.

        All ranks call it at the same step, before they evaluate or save the model. With ``overlap="next_step"`` it also
        applies what is under way; closing the collective does so too.
        """
        self._meeting.land()
        if self._meeting.period is not None:
            self._meeting.check_resumed()
            with self._traffic.counted(), torch.no_grad():
                self._meeting.meet(self._meeting.period)

    @property
    def _is_alone(self) -> bool:
        return self._collective.size == 1 and self._rules.outer is None

    def _step_updates(self, part: Part, active: NDArray[np.bool_]) -> None:
        period = self._meeting.begin(self._steps)
        with self._meeting.undone_on_error():
            if period.length == 1:  # else momentum would carry a step's weight into the next (docs/adr/0002)
                self._weigh_gradients(part)
            # A rank without examples steps as well: its momentum is part of the sum (docs/adr/0002).
            with self._phases.timed("update"):
                self._flat.zero_missing_gradients(active)
            self._step_alone()
        period.add(part)
        if period.is_over:
            self._meeting.meet(period)

    def _step_gradients(self, gradients: JoinedGradients, part: Part, active: NDArray[np.bool_]) -> None:
        self._weigh_gradients(part)
        gradients.join(part, active)
        self._step_alone()
        self._traffic.exchanges += 1

    def _step_alone(self) -> None:
        """Take this rank's own step. If it fails, the others, who cannot know, must not wait or count on."""
        try:
            with self._phases.timed("update"):
                self._optimizer.step()
        except BaseException as error:
            if self._collective.size > 1:
                self._collective.abort(error)
            raise

    def _weigh_gradients(self, part: Part) -> None:
        """Scale this rank's gradients so that the plain mean over ranks is the mean over examples."""
        if part.examples is not None and self._rules.combine == "mean":
            with self._phases.timed("exchange"):
                weight = part.weight(self._collective)
            self._flat.scale_gradients(weight)

    def watch(self, record: Record) -> None:
        """Tell somebody of each phase of a step as it ends; an exchange under way tells from its own thread."""
        self._phases.watch(record)

    # ---- weights and report ------------------------------------------------------------------------------------

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
            In the middle of a period, where they do; where ranks look ahead, until `synchronise` is called.
        """
        if self._meeting.period is not None:
            raise ConfigurationError("in the middle of a period ranks differ: call synchronise() first")
        compare_fingerprints(self._collective, self.fingerprint(), self._steps)

    def _verify_now_and_then(self) -> None:
        every = self._rules.verify_every
        if every and self._meeting.period is None and self._steps - self._verified >= every:
            self.verify()
            self._verified = self._steps

    def report(self) -> SyncReport:
        """Return bytes, density, threshold and seconds by phase, so far, on this rank."""
        return SyncReport(
            steps=self._steps,
            exchanges=self._traffic.exchanges,
            bytes_sent=self._traffic.sent,
            local_bytes=self._traffic.local,
            dense_bytes=4 * self._flat.n * self._steps,
            seconds=dict(self._phases.seconds),
            **self._exchange.measures(),
        )

    # ---- state -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return this rank's state: of the wrapped optimizer, of the exchange (residual, threshold), and counts.

        Each rank has its own, and must save its own; in the middle of a period its module too, whose weights are then
        this rank's alone (call `synchronise` first, and one module does for all). What torch keeps in it, such as
        momentum, is the optimizer's own memory: the next step changes it.
        """
        meeting = self._meeting.state()  # first: what it waits for is still changing the others
        saved = Saved(
            optimizer=self._optimizer.state_dict(),
            exchange=self._exchange.state_dict(),
            active=self._active.flags,
            steps=self._steps,
            exchanges=self._traffic.exchanges,
            bytes_sent=self._traffic.sent,
            local_bytes=self._traffic.local,
            **meeting,
        )
        return saved.written(self._keeper)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned on this rank; the weights themselves are the module's to load.

        Raises
        ------
        ConfigurationError
            If the state is another rank's, another optimizer's or damaged; nothing has changed then.
        """
        state = Saved.read(state_dict, self._keeper)
        before = copy.deepcopy(self._optimizer.state_dict())
        try:
            self._optimizer.load_state_dict(state.optimizer)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigurationError(f"the state is of another optimizer, or damaged: {error!r}") from error
        try:
            self._meeting.settle()
            self._exchange.load_state_dict(state.exchange)
        except BaseException:
            self._optimizer.load_state_dict(before)
            raise
        self._meeting.restore(state)
        self._active.flags = state.active
        self._steps, self._traffic.exchanges = state.steps, state.exchanges
        self._traffic.sent, self._traffic.local = state.bytes_sent, state.local_bytes
        self._verified = self._steps - self._steps % (self._rules.verify_every or 1)
