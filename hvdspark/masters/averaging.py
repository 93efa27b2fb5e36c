"""ParameterAveragingTrainingMaster: local steps, then the mean of all ranks' weights (Deeplearning4j; local SGD)."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from hvdspark.masters.base import TrainingMaster
from hvdspark.sync import Nesterov
from hvdspark.training import AveragingOptions

__all__ = ["ParameterAveragingTrainingMaster"]


class ParameterAveragingTrainingMaster(TrainingMaster):
    """Trains by local steps on every rank, and averages the weights every so many of them.

    All options are keyword-only. Those of every master (`num_workers`, `rng_seed` ...) stand in `TrainingMaster`.

    Parameters
    ----------
    batch_size_per_worker : int
        Examples a rank and step.
    averaging_frequency : int or pairs of int
        Steps between averagings; or a schedule: ``((0, 1), (500, 10))`` averages every step up to 500, every ten from
        there on. What is left over is averaged at the end of each epoch: nothing is skipped.
    aggregation_depth : int
        1: all ranks at once; 2: where there are several hosts and one of them has several ranks, host by host; more:
        the hosts join in a tree of at most so many storeys (docs/adr/0018).
    save_updater : bool
        Average the optimizer's own state (momentum, second moments) as well.
    outer_optimizer : Nesterov, optional
        Outer momentum on the mean difference.
    worker_prefetch_num_batches : int
        Batches that a rank reads ahead.
    """

    batch_size_per_worker: int = Field(default=16, gt=0)
    averaging_frequency: int | tuple[tuple[int, int], ...] = 5
    aggregation_depth: int = 2
    save_updater: bool = True
    outer_optimizer: Nesterov | None = None
    worker_prefetch_num_batches: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _check_sharing(self) -> Self:
        self.sharing().check()
        return self

    def sharing(self) -> AveragingOptions:
        """Return how the ranks share what they learn."""
        return AveragingOptions(
            averaging_frequency=self.averaging_frequency,
            aggregation_depth=self.aggregation_depth,
            save_updater=self.save_updater,
            outer_optimizer=self.outer_optimizer,
        )
