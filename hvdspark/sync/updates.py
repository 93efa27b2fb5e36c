"""SharedUpdates: a torch Optimizer whose steps are shared by all ranks through threshold-coded updates.

Strom, "Scalable Distributed DNN Training Using Commodity GPU Cloud Computing", Interspeech 2015; with
`encode="updates"` as Deeplearning4j's gradient sharing does it.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterable
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hvdspark.codec import (
    AdaptiveThresholdAlgorithm,
    Encoder,
    ResidualClippingPostProcessor,
    ResidualPostProcessor,
    ThresholdAlgorithm,
)
from hvdspark.collectives import Collective
from hvdspark.errors import ConfigurationError, RankMismatch, UnsupportedError
from hvdspark.sync.base import Exchange, SyncReport
from hvdspark.sync.coded import CodedExchange
from hvdspark.sync.dense import DenseExchange
from hvdspark.sync.flat import FlatParameters, parameters_of
from hvdspark.sync.handshake import agree_on_run_id, compare_facts
from hvdspark.sync.phases import Phases

__all__ = ["SharedUpdates"]

_CHOICES = {
    "encode": ("updates", "gradients"),
    "combine": ("mean", "sum"),
    "exchange": ("codec", "dense"),
}


class SharedUpdates(torch.optim.Optimizer):
    """Wraps a rank's optimizer so that every `step` leaves all ranks with the same weights, bit for bit.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        The rank's own; its parameter groups stay in charge, so learning-rate schedulers act on either.
    collective : Collective
        The ranks, from `open_collective`. Rank 0's weights are broadcast here.
    threshold_algorithm : ThresholdAlgorithm
        Chooses the threshold tau of each message.
    residual_post_processor : ResidualPostProcessor or None
        Edits what was kept back.
    encode : {"updates", "gradients"}
        What is coded: what the rank's own optimizer would change (its momentum comes before compression), or the
        gradient (the optimizer runs after decoding, with equal state on all ranks).
    combine : {"mean", "sum"}
        How ranks' parts are joined: their mean, weighted by examples, or their sum, as Deeplearning4j does.
    exchange : {"codec", "dense"}
        Threshold codes, or everything by allreduce (the null codec).
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
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        collective: Collective,
        *,
        threshold_algorithm: ThresholdAlgorithm | None = None,
        residual_post_processor: ResidualPostProcessor | None = ResidualClippingPostProcessor(5.0, 5),  # noqa: B008 (frozen)
        encode: Literal["updates", "gradients"] = "updates",
        combine: Literal["mean", "sum"] = "mean",
        exchange: Literal["codec", "dense"] = "codec",
        named_parameters: Iterable[tuple[str, nn.Parameter]] | None = None,
        verify_every: int = 100,
        num_threads: int | None = None,
    ) -> None:
        for name, value in (("encode", encode), ("combine", combine), ("exchange", exchange)):
            if value not in _CHOICES[name]:
                raise ConfigurationError(f"SharedUpdates.{name}: one of {_CHOICES[name]} is needed, not {value!r}")
        if isinstance(optimizer, torch.optim.LBFGS):
            raise UnsupportedError(
                "LBFGS evaluates the model several times within a step, so its steps cannot be shared"
            )
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self._optimizer = optimizer
        self._adopt_groups()
        self._collective = collective
        self._encode = encode
        self._combine = combine
        self._verify_every = verify_every
        self._phases = Phases()
        self._steps = 0
        self._flat = FlatParameters(parameters_of(optimizer))
        algorithm = threshold_algorithm or AdaptiveThresholdAlgorithm()
        self._compare(algorithm, residual_post_processor, exchange)
        run_id = agree_on_run_id(collective)
        weights = self._host_weights()
        collective.broadcast_(weights)
        self._to_device(weights)
        self._agreed = weights.copy()
        self._gradient = torch.empty_like(self._flat.weights)
        self._joined = np.empty(self._flat.n, np.float32)
        self._exchange: Exchange = DenseExchange(collective, self._flat.n, self._phases)
        if exchange == "codec":
            encoder = Encoder(
                self._flat.n,
                threshold_algorithm=algorithm,
                residual_post_processor=residual_post_processor,
                names=self._flat.names(named_parameters),
                num_threads=num_threads,
            )
            self._exchange = CodedExchange(collective, encoder, run_id, self._phases)

    def _adopt_groups(self) -> None:
        # one set of groups and one state for both optimizers, so that schedulers and users may act on either
        self.param_groups = self._optimizer.param_groups
        self.state = self._optimizer.state

    def _compare(self, algorithm: ThresholdAlgorithm, processor: ResidualPostProcessor | None, exchange: str) -> None:
        facts = {
            "hvdspark": importlib.metadata.version("hvdspark"),
            "parameter shapes": [list(p.shape) for p in self._flat.parameters],
            "optimizer": type(self._optimizer).__name__,
            "encode": self._encode,
            "combine": self._combine,
            "exchange": exchange,
        }
        if exchange == "codec":
            facts["threshold_algorithm"] = repr(algorithm)
            facts["residual_post_processor"] = repr(processor)
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

        Parameters
        ----------
        closure : callable, optional
            Evaluates the model and returns the loss, as for any torch optimizer.
        examples : int, optional
            How many examples this rank's gradient is the mean of: ranks weigh by it. None: all ranks weigh the same.
            A rank without examples calls `step(examples=0)` without gradients.
        total_examples : int, optional
            The sum of `examples` over all ranks, where the caller knows it; else one more small exchange finds it.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._flat.check_bound()
        with torch.no_grad():
            if self._collective.size == 1:
                self._optimizer.step()  # w - (w - w') is not w' to the last bit: alone, nothing is exchanged
            else:
                self._weigh(examples, total_examples)
                if self._encode == "updates":
                    self._step_updates(examples or 0)
                else:
                    self._step_gradients(examples or 0)
        self._steps += 1
        if self._verify_every and self._steps % self._verify_every == 0:
            self.verify()
        return loss

    def _weigh(self, examples: int | None, total_examples: int | None) -> None:
        """Scale this rank's gradients so that the plain mean over ranks is the mean over examples.

        Gradients are weighted, not updates: momentum would carry a step's weight into the next.
        """
        if examples is None or self._combine == "sum":
            return
        if total_examples is None:
            counted = np.array([examples], np.int64)
            with self._phases.timed("exchange"):
                self._collective.allreduce_(counted)
            total_examples = int(counted[0])
        if total_examples:
            self._flat.scale_gradients(self._collective.size * examples / total_examples)

    @property
    def _scale(self) -> float:
        return 1.0 / self._collective.size if self._combine == "mean" else 1.0

    def _step_updates(self, examples: int) -> None:
        with self._phases.timed("update"):
            # A rank without examples steps as well: its momentum is part of the sum (docs/adr/0002).
            self._flat.zero_missing_gradients()
            self._optimizer.step()
        self._exchange.subtract_difference(self._agreed, self._host_weights(), self._scale, examples=examples)
        with self._phases.timed("apply"):
            self._to_device(self._agreed)

    def _step_gradients(self, examples: int) -> None:
        with self._phases.timed("update"):
            self._flat.gather_gradients(self._gradient)
            self._joined.fill(0.0)
        self._exchange.add_total(self._gradient.cpu().numpy(), self._joined, self._scale, examples=examples)
        with self._phases.timed("update"):
            self._flat.scatter_gradients(torch.from_numpy(self._joined).to(self._gradient.device))
            self._optimizer.step()

    # ---- weights -----------------------------------------------------------------------------------------------

    def _host_weights(self) -> NDArray[np.float32]:
        """Return the weights as an array: the buffer itself on a CPU, a copy from a GPU."""
        return self._flat.weights.detach().cpu().numpy()

    def _to_device(self, weights: NDArray[np.float32]) -> None:
        self._flat.weights.copy_(torch.from_numpy(weights))

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

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002 (torch's signature)
        """Reset the gradients, as torch's optimizers do."""
        self._optimizer.zero_grad(set_to_none=set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse new parameters: all ranks agreed on a set of them (allowed only while this is being built)."""
        if hasattr(self, "_flat"):
            raise UnsupportedError("parameters cannot be added after the optimizer was wrapped: wrap it again")
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the wrapped optimizer, of the exchange (residual, threshold) and the step count."""
        return {
            "optimizer": self._optimizer.state_dict(),
            "exchange": self._exchange.state_dict(),
            "steps": self._steps,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned; the weights themselves are the module's to load, before this."""
        self._optimizer.load_state_dict(state_dict["optimizer"])
        self._adopt_groups()
        self._exchange.load_state_dict(state_dict["exchange"])
        self._steps = int(state_dict["steps"])
        self._agreed = self._host_weights().copy()

    def report(self) -> SyncReport:
        """Return bytes, density, threshold and seconds by phase, so far, on this rank."""
        return SyncReport(
            steps=self._steps,
            bytes_sent=self._exchange.bytes_sent,
            dense_bytes=4 * self._flat.n * self._steps,
            seconds=dict(self._phases.seconds),
            **self._exchange.measures(),
        )
