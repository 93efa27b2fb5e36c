"""SharedUpdates: a torch Optimizer whose steps are shared by all ranks through threshold-coded updates.

Strom, "Scalable Distributed DNN Training Using Commodity GPU Cloud Computing", Interspeech 2015; with
`encode="updates"` as Deeplearning4j's gradient sharing does it.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hvdspark.codec import Encoder, EncodingRecord, ResidualPostProcessor, ThresholdAlgorithm
from hvdspark.collectives import Collective
from hvdspark.errors import ConfigurationError, RankMismatch, UnsupportedError
from hvdspark.sync.base import Exchange, SyncReport
from hvdspark.sync.coded import CodedExchange, encoding_log
from hvdspark.sync.dense import DenseExchange
from hvdspark.sync.flat import FlatParameters, as_array, codec_device, parameters_of
from hvdspark.sync.handshake import agree_on_run_id, broadcast_tensors_, compare_facts
from hvdspark.sync.options import DEFAULT_POST_PROCESSOR, DEFAULT_THRESHOLD_ALGORITHM, check_options
from hvdspark.sync.part import Part
from hvdspark.sync.phases import Phases
from hvdspark.sync.wrapped import WrappedOptimizer

__all__ = ["SharedUpdates"]

_KEYS = {"optimizer", "exchange", "steps", "rank", "size", "bytes_sent", "active"}


class SharedUpdates(WrappedOptimizer):
    """Wraps a rank's optimizer so that every `step` leaves all ranks with the same weights, bit for bit.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        The rank's own; its parameter groups stay in charge, so learning-rate schedulers act on either.
    collective : Collective
        The ranks, from `open_collective`. Rank 0's weights are broadcast here: those of the optimizer's groups and of
        `named_parameters`, frozen ones too. Buffers are not: make the module from one seed if it has any.
    threshold_algorithm : ThresholdAlgorithm, optional
        Chooses the threshold tau of each message; None: ``AdaptiveThresholdAlgorithm()``.
    residual_post_processor : ResidualPostProcessor or None
        Edits what was kept back.
    encode : {"updates", "gradients"}
        What is coded: what the rank's own optimizer would change (its momentum comes before compression), or the
        gradient (the optimizer runs after decoding, with equal state on all ranks).
    combine : {"mean", "sum"}
        How ranks' parts are joined: their mean, weighted by examples, or their sum, as Deeplearning4j does.
    exchange : {"codec", "dense"}
        Threshold codes, or everything by allreduce (the null codec).
    magnitude : {"threshold", "mean"}
        What a code stands for: the threshold, or the mean magnitude of what is sent.
    threshold_scope : {"model", "group", "parameter"}
        What has a threshold of its own: the whole model, each parameter group of the optimizer, or each parameter.
    encoding_debug_mode : bool or callable
        Log density, threshold and percentiles of what is encoded at every step (logger ``hvdspark.encoding``, level
        INFO); a function is given each `EncodingRecord` as well. It costs a sort of the residual. A rank alone codes
        nothing, and logs nothing.
    named_parameters : iterable of (str, Parameter), optional
        Names for error messages: ``model.named_parameters()``.
    verify_every : int
        Compare a checksum of the weights over all ranks every so many steps; 0 never.
    num_threads : int, optional
        Threads of the codec; None: as many as this process may use.

    Raises
    ------
    RankMismatch
        On all ranks, if their parameters, options or versions differ.
    ConfigurationError, UnsupportedError, ModelError
        For an option or an optimizer that cannot be used.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        collective: Collective,
        *,
        threshold_algorithm: ThresholdAlgorithm | None = None,
        residual_post_processor: ResidualPostProcessor | None = DEFAULT_POST_PROCESSOR,
        encode: Literal["updates", "gradients"] = "updates",
        combine: Literal["mean", "sum"] = "mean",
        exchange: Literal["codec", "dense"] = "codec",
        magnitude: Literal["threshold", "mean"] = "threshold",
        threshold_scope: Literal["model", "group", "parameter"] = "model",
        encoding_debug_mode: bool | Callable[[EncodingRecord], None] = False,
        named_parameters: Iterable[tuple[str, nn.Parameter]] | None = None,
        verify_every: int = 100,
        num_threads: int | None = None,
    ) -> None:
        algorithm = DEFAULT_THRESHOLD_ALGORITHM if threshold_algorithm is None else threshold_algorithm
        check_options(
            encode=encode,
            combine=combine,
            exchange=exchange,
            threshold_algorithm=algorithm,
            residual_post_processor=residual_post_processor,
            magnitude=magnitude,
            threshold_scope=threshold_scope,
            encoding_debug_mode=encoding_debug_mode,
        )
        if not isinstance(verify_every, int) or verify_every < 0:
            raise ConfigurationError(f"verify_every: a whole number from 0 is needed, not {verify_every!r}")
        super().__init__(optimizer)
        self._collective = collective
        self._encode = encode
        self._combine = combine
        self._verify_every = verify_every
        self._phases = Phases()
        self._steps = 0
        self._bytes_sent = 0
        self._active: NDArray[np.bool_] | None = None  # which parameters are trained; agreed on in the first step
        named = list(named_parameters or ())
        self._flat = FlatParameters(parameters_of(optimizer))
        frozen = _frozen(optimizer, named)
        ends = self._flat.group_ends(optimizer, threshold_scope)
        coded = {"magnitude": magnitude, "threshold_scope": threshold_scope, "elements that share a threshold": ends}
        self._compare(frozen, exchange, algorithm, residual_post_processor, coded)
        run_id = agree_on_run_id(collective)
        broadcast_tensors_(collective, [self._flat.weights, *frozen])
        # Codes are taken where the weights are, if they can; a dense exchange goes through the memory of the host.
        place = codec_device(self._flat.weights.device) if exchange == "codec" else torch.device("cpu")
        self._agreed = torch.empty(self._flat.n, dtype=torch.float32, device=place)
        self._gradient = torch.empty_like(self._flat.weights)
        self._exchange: Exchange = DenseExchange(collective, self._flat.n, self._phases)
        if exchange == "codec":
            encoder = Encoder(
                self._flat.n,
                threshold_algorithm=algorithm,
                residual_post_processor=residual_post_processor,
                magnitude=magnitude,
                group_ends=ends,
                device=str(place),
                names=self._flat.names(named),
                num_threads=num_threads,
                observer=encoding_log(encoding_debug_mode),
            )
            self._exchange = CodedExchange(collective, encoder, run_id, self._phases, num_threads)
        elif num_threads is not None:
            raise ConfigurationError('num_threads cannot act with exchange="dense", where nothing is coded')

    def _compare(
        self,
        frozen: list[nn.Parameter],
        exchange: str,
        algorithm: ThresholdAlgorithm,
        processor: ResidualPostProcessor | None,
        coded: Mapping[str, Any],
    ) -> None:
        facts = {
            "hvdspark": importlib.metadata.version("hvdspark"),
            "parameter shapes": [list(p.shape) for p in self._flat.parameters],
            "frozen parameters": [(list(p.shape), str(p.dtype)) for p in frozen],
            "optimizer": type(self._optimizer).__name__,
            "encode": self._encode,
            "combine": self._combine,
            "exchange": exchange,
            "verify_every": self._verify_every,
            "threshold_algorithm": repr(algorithm),
            "residual_post_processor": repr(processor),
            **coded,
        }
        compare_facts(self._collective, facts)

    # ---- a step ------------------------------------------------------------------------------------------------

    def step(
        self,
        closure: Callable[[], Any] | None = None,
        *,
        examples: int | None = None,
        total_examples: int | None = None,
    ) -> Any:
        """Take one step together with all ranks.

        What was done to the weights since the last step stays done, as with any torch optimizer, provided that all
        ranks did the same. A parameter that has had a gradient before and has none now counts as having one of zeros.

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
            This rank's update or gradient is not finite (named by parameter), or under ``exchange="dense"`` the sum.
        RankLost
            Another rank could not send its part, or is gone.
        RankMismatch
            Ranks call with other arguments, or their weights differ.

        After an error the weights are those before the step (unless it is that ranks' weights differ), and nothing that
        was to be sent is lost from the residual; but the optimizer's own state may have moved, and may hold NaN.
        """
        self._refuse_scaler()
        part = Part.checked(examples, total_examples)
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._flat.check_bound(self._optimizer)
        before = self._collective.sent_bytes
        try:
            with torch.no_grad():
                if self._collective.size == 1:
                    self._optimizer.step()  # w - (w - w') is not w' to the last bit: alone, nothing is exchanged
                else:
                    self._step_together(part)
            self._steps += 1
            if self._verify_every and self._steps % self._verify_every == 0:
                self.verify()
        finally:
            self._bytes_sent += self._collective.sent_bytes - before
        return loss

    def _step_together(self, part: Part) -> None:
        if self._active is None:
            self._active = self._agree_on_active()
        self._weigh(part)
        if self._encode == "updates":
            self._step_updates(part, self._active)
        else:
            self._step_gradients(part, self._active)

    def _agree_on_active(self) -> NDArray[np.bool_]:
        """Find out which parameters have a gradient on some rank: layers that nobody uses are left alone."""
        counts = self._flat.with_gradient().astype(np.int32)
        with self._phases.timed("exchange"):
            self._collective.allreduce_(counts)
        return counts > 0

    def _weigh(self, part: Part) -> None:
        """Scale this rank's gradients so that the plain mean over ranks is the mean over examples.

        Gradients are weighted, not updates: momentum would carry a step's weight into the next.
        """
        if part.examples is None or self._combine == "sum":
            return
        total = part.total
        if total is None:
            counted = np.array([part.examples], np.int64)
            try:
                with self._phases.timed("exchange"):
                    self._collective.allreduce_(counted)
            except RankMismatch as error:
                error.add_note("step(examples=...) must be given on all ranks or on none, and total_examples likewise")
                raise
            total = int(counted[0])
        if total:
            self._flat.scale_gradients(self._collective.size * part.examples / total)

    @property
    def _scale(self) -> float:
        return 1.0 / self._collective.size if self._combine == "mean" else 1.0

    def _step_updates(self, part: Part, active: NDArray[np.bool_]) -> None:
        with self._phases.timed("update"):
            self._agreed.copy_(self._flat.weights)
            active |= self._flat.with_gradient()
            # A rank without examples steps as well: its momentum is part of the sum (docs/adr/0002).
            self._flat.zero_missing_gradients(active)
        try:
            with self._phases.timed("update"):
                self._optimizer.step()
            local = self._flat.weights.detach().to(self._agreed.device)
            self._exchange.subtract_difference(as_array(self._agreed), as_array(local), self._scale, part=part)
        finally:
            with self._phases.timed("apply"):  # what was agreed; after an error still what was before
                self._flat.weights.copy_(self._agreed)

    def _step_gradients(self, part: Part, active: NDArray[np.bool_]) -> None:
        with self._phases.timed("update"):
            self._flat.gather_gradients(self._gradient)
            joined = self._agreed.zero_()  # not before: the last step left the gradients as views of it
        gradient = self._gradient.to(joined.device)
        self._exchange.add_total(as_array(gradient), as_array(joined), self._scale, part=part)
        with self._phases.timed("update"):
            self._flat.note_active(joined, active)
            self._flat.scatter_gradients(joined.to(self._gradient.device), active)
            self._optimizer.step()

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
        """
        mine = np.array([self.fingerprint()], np.uint32).view(np.uint8)
        found = [int(part.view(np.uint32)[0]) for part in self._collective.allgather(mine)]
        if len(set(found)) > 1:
            listed = ", ".join(f"rank {rank}: {value:08x}" for rank, value in enumerate(found))
            raise RankMismatch(
                f"the weights differ between ranks after step {self._steps} ({listed}). Only step() may change them; "
                'with encode="gradients" all ranks also need the same torch build and kind of CPU or GPU'
            )

    # ---- what torch expects of an optimizer --------------------------------------------------------------------

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse new parameters: all ranks agreed on a set of them (allowed only while this is being built)."""
        if hasattr(self, "_flat"):
            raise UnsupportedError("parameters cannot be added after the optimizer was wrapped: wrap it again")
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return this rank's state: of the wrapped optimizer, of the exchange (residual, threshold), and counts.

        Each rank has its own, and must save its own.
        """
        return {
            "optimizer": self._optimizer.state_dict(),
            "exchange": self._exchange.state_dict(),
            "steps": self._steps,
            "rank": self._collective.rank,
            "size": self._collective.size,
            "bytes_sent": self._bytes_sent,
            "active": None if self._active is None else self._active.tolist(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned on this rank; the weights themselves are the module's to load.

        Raises
        ------
        ConfigurationError
            If the state is another rank's, another optimizer's or damaged; nothing has changed then.
        """
        if set(state_dict) != _KEYS:
            raise ConfigurationError(f"SharedUpdates: a state has the keys {sorted(_KEYS)}, not {sorted(state_dict)}")
        ours = (self._collective.rank, self._collective.size)
        theirs = (state_dict["rank"], state_dict["size"])
        if ours != theirs:
            raise ConfigurationError(
                f"this is the state of rank {theirs[0]} of {theirs[1]}, here is rank {ours[0]} of {ours[1]}: each rank "
                "keeps back something else, so each saves and loads its own"
            )
        before = self._exchange.state_dict()
        self._exchange.load_state_dict(state_dict["exchange"])
        try:
            self._optimizer.load_state_dict(state_dict["optimizer"])
        except ValueError as error:
            self._exchange.load_state_dict(before)
            raise ConfigurationError(f"the state is of another optimizer: {error}") from error
        active = state_dict["active"]
        self._active = None if active is None else np.array(active, np.bool_)
        self._steps = int(state_dict["steps"])
        self._bytes_sent = int(state_dict["bytes_sent"])

    def report(self) -> SyncReport:
        """Return bytes, density, threshold and seconds by phase, so far, on this rank."""
        return SyncReport(
            steps=self._steps,
            bytes_sent=self._bytes_sent,
            dense_bytes=4 * self._flat.n * self._steps,
            seconds=dict(self._phases.seconds),
            **self._exchange.measures(),
        )


def _frozen(optimizer: torch.optim.Optimizer, named: list[tuple[str, nn.Parameter]]) -> list[nn.Parameter]:
    """Return the parameters that are not trained, each once, in an order that is the same on all ranks."""
    in_groups = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trained = {id(parameter) for parameter in parameters_of(optimizer)}
    every = {id(parameter): parameter for parameter in (*in_groups, *(parameter for _, parameter in named))}
    return [parameter for key, parameter in every.items() if key not in trained]
