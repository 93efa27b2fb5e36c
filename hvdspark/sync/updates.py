"""SharedUpdates: a torch Optimizer whose steps are shared by all ranks through threshold-coded updates.

Strom, "Scalable Distributed DNN Training Using Commodity GPU Cloud Computing", Interspeech 2015; with
`encode="updates"` as Deeplearning4j's gradient sharing does it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import torch
from torch import nn

from hvdspark.codec import Encoder, EncodingRecord, ResidualPostProcessor, ThresholdAlgorithm
from hvdspark.collectives import Collective
from hvdspark.sync.auto import AutoExchange
from hvdspark.sync.base import Exchange
from hvdspark.sync.coded import CodedExchange, encoding_log
from hvdspark.sync.coded_regions import CodedRegionExchange
from hvdspark.sync.dense import DenseExchange
from hvdspark.sync.flat import codec_device
from hvdspark.sync.fp16 import Fp16Exchange
from hvdspark.sync.masking import MomentumMask, wants_mask
from hvdspark.sync.options import (
    BY_REGION,
    DEFAULT_POST_PROCESSOR,
    DEFAULT_THRESHOLD_ALGORITHM,
    UNCODED,
    CodecOptions,
    ExchangeName,
    check_options,
)
from hvdspark.sync.outer import Nesterov
from hvdspark.sync.period import LocalSteps, checked_local_steps
from hvdspark.sync.rules import Rules
from hvdspark.sync.synchroniser import Synchroniser

__all__ = ["SharedUpdates"]


class SharedUpdates(Synchroniser):
    """Wraps a rank's optimizer so that every exchange leaves all ranks with the same weights, bit for bit.

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
    exchange : {"codec", "regions", "dense", "fp16", "auto"}
        "codec": threshold codes, each rank's to all. "regions": codes go to the owner of each region of the model, who
        thresholds their sum again and sends it to all: for many ranks (docs/adr/0014). "dense": everything by allreduce
        (the null codec). "fp16": everything as float16; what rounding takes off is kept and sent later. "auto": codec,
        dense or fp16, whichever took the least time in the first twelve exchanges, on the slowest rank: logged by
        ``hvdspark``, level INFO.
    magnitude : {"threshold", "mean", "multiples"}
        What a code stands for: the threshold; the mean magnitude of what is sent; or one to eight times the threshold,
        as much as is there, for three bits more a code.
    threshold_scope : {"model", "group", "parameter"}
        What has a threshold of its own: the whole model, each parameter group of the optimizer, or each parameter.
    momentum_masking : "auto", True or False
        Zero the momentum of what was just sent (Lin et al., Deep Gradient Compression): with SGD's momentum and one
        local step it is worth much, at a learning rate two to four times higher. "auto": there, and with local steps
        that look ahead.
    local_steps : int or pairs of int
        Steps that a rank takes by itself between exchanges; what they came to is then coded. A schedule such as
        ``((0, 1), (500, 10))`` begins with one and takes ten from step 500 on. See `synchronise`.
    residual_lookahead : float
        Share of its residual that a rank applies to its own weights for the length of its local steps, so that it does
        not learn again what it has learned and not sent; 0.3 was best (docs/benchmarks/log.md). What was agreed is
        without it: `synchronise` brings that back. Local steps with ``exchange="codec"`` alone.
    outer_optimizer : Nesterov, optional
        What is made of the agreed difference: outer momentum (SlowMo, DiLoCo).
    overlap : {"none", "next_step"}
        "next_step": what a step has to send is sent while the next one computes, and applied before the weights move
        again: one step late. It hides the exchange, and costs loss (docs/benchmarks.md): never by default.
    topology : {"auto", "flat", "hosts"}
        "hosts": the ranks of a host sum what they have, and encode once for it; only messages of hosts go between
        them. "flat": every rank codes. "auto": by host, where there are several and one of them has several ranks.
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
        exchange: ExchangeName = "codec",
        magnitude: Literal["threshold", "mean", "multiples"] = "threshold",
        threshold_scope: Literal["model", "group", "parameter"] = "model",
        momentum_masking: Literal["auto"] | bool = "auto",
        local_steps: LocalSteps = 1,
        residual_lookahead: float = 0.0,
        outer_optimizer: Nesterov | None = None,
        overlap: Literal["none", "next_step"] = "none",
        topology: Literal["auto", "flat", "hosts"] = "auto",
        encoding_debug_mode: bool | Callable[[EncodingRecord], None] = False,
        named_parameters: Iterable[tuple[str, nn.Parameter]] | None = None,
        verify_every: int = 100,
        num_threads: int | None = None,
    ) -> None:
        codec = CodecOptions(
            threshold_algorithm=DEFAULT_THRESHOLD_ALGORITHM if threshold_algorithm is None else threshold_algorithm,
            residual_post_processor=residual_post_processor,
            magnitude=magnitude,
            threshold_scope=threshold_scope,
            momentum_masking=momentum_masking,
            encoding_debug_mode=encoding_debug_mode,
            num_threads=num_threads,
        )
        check_options(encode, combine, exchange, codec, topology, residual_lookahead)
        rules = Rules(
            encode=encode,
            combine=combine,
            schedule=checked_local_steps(local_steps),
            outer=outer_optimizer,
            lookahead=residual_lookahead,
            overlap=overlap,
            topology="flat" if topology == "auto" and (exchange in BY_REGION or residual_lookahead) else topology,
            verify_every=verify_every,
        )
        self._name = exchange
        self._codec = codec
        masked = exchange not in UNCODED and wants_mask(
            momentum_masking,
            optimizer,
            is_worth_it=encode == "updates" and (rules.schedule == ((0, 1),) or rules.lookahead > 0),
        )
        self._is_masked = masked
        facts = {"exchange": exchange, "local_steps": rules.schedule, "momentum_masking": masked, **codec.facts()}
        super().__init__(optimizer, collective, rules, facts, named_parameters)

    def _open(
        self, run_id: int, named: list[tuple[str, nn.Parameter]]
    ) -> tuple[Exchange, Sequence[Callable[[float], None]]]:
        exchange = self._open_exchange(run_id, named)
        if not self._is_masked or exchange.residual is None:
            return exchange, ()
        mask = MomentumMask(self._optimizer, self._flat)

        def mask_sent(_weight: float) -> None:
            if exchange.sent is not None:  # what goes dense, as a whole, is of this very step
                mask.clear(exchange.sent)

        return exchange, (mask_sent,)

    def _open_exchange(self, run_id: int, named: list[tuple[str, nn.Parameter]]) -> Exchange:
        world, n, phases, hosts = self._collective, self._flat.n, self._phases, self._hosts
        if self._name == "dense" or world.size == 1:  # a rank alone codes nothing
            return DenseExchange(world, n, phases, hosts)
        if self._name == "fp16":
            return Fp16Exchange(world, n, phases)
        encoder, num_threads = self._encoder(named), self._codec.num_threads
        if self._name == "regions":
            return CodedRegionExchange(world, encoder, run_id, phases, num_threads)
        coded = CodedExchange(world, encoder, run_id, phases, num_threads, hosts)
        if self._name == "codec":
            return coded
        ways = {"codec": coded, "dense": DenseExchange(world, n, phases, hosts)}
        if hosts is None and n >= world.size:
            ways["fp16"] = Fp16Exchange(world, n, phases)
        return AutoExchange(world, ways)

    def _encoder(self, named: list[tuple[str, nn.Parameter]]) -> Encoder:
        codec, flat = self._codec, self._flat
        return Encoder(
            flat.n,
            threshold_algorithm=codec.threshold_algorithm,
            residual_post_processor=codec.residual_post_processor,
            magnitude=codec.magnitude,
            group_ends=flat.group_ends(self._optimizer, codec.threshold_scope),
            device=str(codec_device(flat.weights.device)),
            names=flat.names(named),
            num_threads=codec.num_threads,
            observer=encoding_log(codec.encoding_debug_mode),
        )
