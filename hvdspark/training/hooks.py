"""Users' own code in the training loop of every rank: hooks around each update, listeners to what happens.

Deeplearning4j's TrainingHook and TrainingListener, which it kept from running on workers.
"""

from __future__ import annotations

import dataclasses
import math

from torch import nn

from hvdspark.data import Batch

__all__ = ["Moment", "TrainingHook", "TrainingListener"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Moment:
    """Where a rank is in its training.

    Parameters
    ----------
    rank, size : int
        This rank, and how many there are.
    epoch : int
        From 0.
    step : int
        Steps taken before this one, over all epochs.
    module : torch.nn.Module
        What is trained, on its device.
    batch : Batch, optional
        This rank's rows; without any where it has none in this step. None at the start and the end of an epoch.
    score : float
        After an update: the mean loss of this rank's rows, NaN without rows. At the end of an epoch: the mean over all
        ranks' rows, or that of the validation data where there are any. Else NaN.
    """

    rank: int
    size: int
    epoch: int
    step: int
    module: nn.Module
    batch: Batch | None = None
    score: float = math.nan


class TrainingHook:
    """Runs before and after each update, on every rank. Derive from it, and write the methods that are wanted.

    It travels to the ranks, each of which has its own copy. What it raises ends the training, and arrives at the driver
    with rank and traceback.
    """

    def pre_update(self, moment: Moment) -> None:
        """Run before the optimizer's step: this rank's gradients are there, and may be changed."""

    def post_update(self, moment: Moment) -> None:
        """Run after the optimizer's step. Weights are not to be changed, unless on all ranks alike.

        With local steps such a change counts as a part of them.
        """


class TrainingListener:
    """Hears of each step and epoch, on every rank. Derive from it, and write the methods that are wanted.

    It travels to the ranks, each of which has its own copy: what it gathers stays there unless it writes it down.
    """

    def on_epoch_start(self, moment: Moment) -> None:
        """Run before the first step of an epoch."""

    def iteration_done(self, moment: Moment) -> None:
        """Run after each step."""

    def on_epoch_end(self, moment: Moment) -> None:
        """Run after the last step of an epoch and its validation; all ranks have the same weights."""
