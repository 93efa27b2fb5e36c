"""SharedTrainingMaster: every step shared, as threshold-coded updates (Strom, Interspeech 2015; Deeplearning4j)."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from hvdspark.codec import AnyResidualPostProcessor, AnyThresholdAlgorithm, QuantileThresholdAlgorithm
from hvdspark.masters.base import TrainingMaster
from hvdspark.sync import DEFAULT_POST_PROCESSOR, DEFAULT_THRESHOLD_ALGORITHM, ExchangeName, Nesterov
from hvdspark.training import SharingOptions

__all__ = ["SharedTrainingMaster"]


class SharedTrainingMaster(TrainingMaster):
    """Trains with updates that are quantised against a threshold and shared by all ranks at every step.

    All options are keyword-only. Those of every master (`batch_size_per_worker`, `num_workers` ...) stand in
    `TrainingMaster`.

    Parameters
    ----------
    threshold_algorithm : ThresholdAlgorithm
        Chooses the threshold of each message.
    residual_post_processor : ResidualPostProcessor or None
        Edits what was kept back.
    encode : {"updates", "gradients"}
        What is coded: what a rank's own optimizer would change, or its gradient.
    combine : {"mean", "sum"}
        Mean over ranks, weighted by examples; or their sum, as Deeplearning4j does.
    exchange : {"codec", "regions", "dense", "fp16", "auto"}
        Threshold codes, each rank's to all; or to the owner of each region of the model, who sends all their sum (for
        many ranks); everything by allreduce, or everything as float16, where the options of the codec are refused; or
        what took the least time in the first twelve exchanges.
    magnitude : {"threshold", "mean", "multiples"}
        What a code stands for: the threshold; the mean magnitude of what is sent; or one to eight times the threshold,
        as much as is there, for three bits more a code.
    threshold_scope : {"model", "group", "parameter"}
        What has a threshold of its own: the whole model, each parameter group of the optimizer, or each parameter.
    momentum_masking : "auto", True or False
        Zero the momentum of what was just sent; "auto": where every step is coded, or local steps look ahead, and the
        optimizer is SGD with momentum.
    local_steps : int or pairs of int
        Steps that a rank takes by itself between exchanges; or a schedule: ``((0, 1), (500, 10))`` begins with one and
        takes ten from step 500 on. What is left over is exchanged at the end of each epoch.
    residual_lookahead : float
        Share of its residual that a rank applies to its own weights for the length of its local steps; 0.3 is a good
        one where there are local steps.
    outer_optimizer : Nesterov, optional
        Outer momentum on the agreed difference.
    overlap : {"none", "next_step"}
        "next_step": an exchange is under way while the next step computes, and is applied one step late.
    topology : {"auto", "flat", "hosts"}
        "hosts": the ranks of a host sum what they have and encode once for it; "flat": every rank codes; "auto": by
        host, where there are several and one of them has several ranks.
    encoding_debug_mode : bool
        Record density, threshold and percentiles of what is encoded, at every step and on every rank: as log lines of
        the workers, and as events of kind ``encoding`` in the run directory.
    """

    threshold_algorithm: AnyThresholdAlgorithm = DEFAULT_THRESHOLD_ALGORITHM
    residual_post_processor: AnyResidualPostProcessor | None = DEFAULT_POST_PROCESSOR
    encode: Literal["updates", "gradients"] = "updates"
    combine: Literal["mean", "sum"] = "mean"
    exchange: ExchangeName = "codec"
    magnitude: Literal["threshold", "mean", "multiples"] = "threshold"
    threshold_scope: Literal["model", "group", "parameter"] = "model"
    momentum_masking: Literal["auto", True, False] = "auto"
    local_steps: int | tuple[tuple[int, int], ...] = 1
    residual_lookahead: float = Field(default=0.0, strict=True)
    outer_optimizer: Nesterov | None = None
    overlap: Literal["none", "next_step"] = "none"
    topology: Literal["auto", "flat", "hosts"] = "auto"
    encoding_debug_mode: bool = False

    @classmethod
    def recommended(cls, batch_size_per_worker: int, *, density: float = 1e-2, **options: Any) -> Self:
        """Return a master that shares with the fewest bytes for the loss of dense training.

        Ten local steps, then the largest of what they came to, at their mean; nothing is clipped, and ranks look ahead.
        It was measured with SGD with momentum over thousands of steps (docs/benchmarks.md), at the learning rate of
        dense training. Short runs meet too rarely: take the defaults there.

        Parameters
        ----------
        batch_size_per_worker : int
            Examples a rank and step.
        density : float
            The share of elements that is sent; more of it loses less.
        **options
            Of this class: they replace what is recommended.
        """
        chosen = {
            "local_steps": 10,
            "threshold_algorithm": QuantileThresholdAlgorithm(density),
            "residual_post_processor": None,
            "magnitude": "mean",
            "residual_lookahead": 0.3,
        }
        return cls(batch_size_per_worker=batch_size_per_worker, **{**chosen, **options})

    @model_validator(mode="after")
    def _check_sharing(self) -> Self:
        self.sharing().check()
        return self

    def sharing(self) -> SharingOptions:
        """Return how the ranks share what they learn."""
        return SharingOptions(
            threshold_algorithm=self.threshold_algorithm,
            residual_post_processor=self.residual_post_processor,
            encode=self.encode,
            combine=self.combine,
            exchange=self.exchange,
            magnitude=self.magnitude,
            threshold_scope=self.threshold_scope,
            momentum_masking=self.momentum_masking,
            local_steps=self.local_steps,
            residual_lookahead=self.residual_lookahead,
            outer_optimizer=self.outer_optimizer,
            overlap=self.overlap,
            topology=self.topology,
            encoding_debug_mode=self.encoding_debug_mode,
        )
