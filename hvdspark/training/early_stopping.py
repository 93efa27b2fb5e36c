"""When training ends before its last epoch, and which epoch's weights are kept."""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from hvdspark import storage
from hvdspark.collectives import Collective
from hvdspark.config import Configuration
from hvdspark.errors import StorageError

__all__ = ["EarlyStopping", "Stopping", "Verdict"]

_DIRECTORY = "best"


class EarlyStopping(Configuration):
    """Ends a fit before its last epoch; the trained network has the weights of the best epoch.

    Conditions are looked at after every so many epochs, and after the last one. Any that holds ends the training. What
    they decide follows from the history alone, so a run that goes on from a checkpoint stops where it would have.

    Parameters
    ----------
    monitor : {"score", "training_score", "validation_score"}
        What is looked at. ``"score"``: the validation score where there are validation data, else the training score.
    mode : {"min", "max"}
        Whether less or more is better.
    patience : int, optional
        Stop where so many evaluations, one behind the other, were no improvement. None: never for that.
    min_delta : float
        By how much a score must beat the best one to be an improvement, in its own units.
    evaluate_every : int
        Epochs between evaluations; validation data are scored then only.
    max_time_s : float, optional
        Stop once the epochs have taken so many seconds, on rank 0's clock; those before an interruption count.
    target_score : float, optional
        Stop once the score is as good as this.
    worst_score : float, optional
        Stop where the score is worse than this: the training has come off the rails.
    """

    monitor: Literal["score", "training_score", "validation_score"] = "score"
    mode: Literal["min", "max"] = "min"
    patience: int | None = Field(default=None, gt=0)
    min_delta: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    evaluate_every: int = Field(default=1, gt=0)
    max_time_s: float | None = Field(default=None, gt=0)
    target_score: float | None = Field(default=None, allow_inf_nan=False)
    worst_score: float | None = Field(default=None, allow_inf_nan=False)

    def is_due(self, epoch: int, epochs: int) -> bool:
        """Tell whether an epoch, from 0, of so many is evaluated."""
        return (epoch + 1) % self.evaluate_every == 0 or epoch + 1 == epochs

    def judge(self, history: Sequence[Mapping[str, Any]], epochs: int) -> Verdict:
        """Say which epoch was the best so far, and whether that is enough.

        Parameters
        ----------
        history : sequence of mapping
            One an epoch, from the first on.
        epochs : int
            How many there may be.
        """
        best, best_score, waited, reason = -1, math.nan, 0, ""
        for epoch, record in enumerate(history):
            if not self.is_due(epoch, epochs):
                continue
            score = self._score(record)
            if best < 0 or self._is_better(score, best_score):
                best, best_score, waited = epoch, score, 0
            else:
                waited += 1
            reason = self._reason(score, best_score, waited, history[: epoch + 1])
        return Verdict(best_epoch=best, reason=reason)

    def _score(self, record: Mapping[str, Any]) -> float:
        if self.monitor == "training_score":
            return float(record["score"])
        return float(record.get("validation_score", record["score"]))

    def _is_better(self, score: float, best: float) -> bool:
        if math.isnan(score) or math.isnan(best):
            return math.isnan(best) and not math.isnan(score)
        return score < best - self.min_delta if self.mode == "min" else score > best + self.min_delta

    def _reason(self, score: float, best: float, waited: int, history: Sequence[Mapping[str, Any]]) -> str:
        """Return which condition holds after these epochs, in words; empty: none."""
        sign = 1 if self.mode == "min" else -1
        name = "validation score" if self.monitor != "training_score" and "validation_score" in history[-1] else "score"
        if not math.isfinite(score):
            return f"the {name} is {score}"
        if self.target_score is not None and sign * score <= sign * self.target_score:
            return f"the {name} {score:.6g} has reached {self.target_score:g}"
        if self.worst_score is not None and sign * score > sign * self.worst_score:
            return f"the {name} {score:.6g} is worse than {self.worst_score:g}"
        if self.patience is not None and waited >= self.patience:
            times = f"{waited} evaluation{'s' if waited > 1 else ''}"
            return f"the {name} has not improved on {best:.6g} in {times}"
        seconds = sum(float(record["seconds"]) for record in history)
        if self.max_time_s is not None and seconds >= self.max_time_s:
            return f"training has taken {seconds:.0f} of {self.max_time_s:g} s"
        return ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """What was made of a history.

    Parameters
    ----------
    best_epoch : int
        Which epoch, from 0, was the best of those evaluated; -1: none was yet.
    reason : str
        Why training ends, in words; empty: it goes on.
    """

    best_epoch: int
    reason: str


class Stopping:
    """Keeps the best weights of a run, and tells its ranks when to end, all in the same epoch.

    Rank 0 writes the weights of each best epoch into the run directory. Those that were the best when one of the kept
    checkpoints was taken stay, also when the run has ended: another may go on from there.

    Parameters
    ----------
    options : EarlyStopping
        When.
    run_directory : str
        Path or URL.
    epochs : int
        How many there may be.
    world : Collective
        The ranks; all of them call each method.
    module : torch.nn.Module
        What is trained.
    checkpoints : int
        How many checkpoints are kept; 0: none is taken.
    """

    def __init__(
        self,
        options: EarlyStopping,
        run_directory: str,
        epochs: int,
        world: Collective,
        module: torch.nn.Module,
        checkpoints: int,
    ) -> None:
        self._options = options
        self._directory = storage.join(run_directory, _DIRECTORY)
        self._epochs = epochs
        self._world = world
        self._module = module
        self._has_checkpoints = checkpoints > 0
        self._best_at_checkpoints: deque[int] = deque(maxlen=checkpoints)

    def is_due(self, epoch: int) -> bool:
        """Tell whether an epoch is evaluated."""
        return self._options.is_due(epoch, self._epochs)

    def look(self, history: Sequence[Mapping[str, Any]]) -> str:
        """Return why training ends here, empty where it goes on; the weights are kept where no epoch was better.

        Rank 0's word counts, for clocks differ.
        """
        verdict = self._options.judge(history, self._epochs)
        stops = np.array([bool(verdict.reason)], np.int32)
        self._world.broadcast_(stops)
        if verdict.best_epoch == len(history) - 1 and self._world.rank == 0:
            storage.make_directories(self._directory)
            storage.write_tensors(self._path(verdict.best_epoch), self._module.state_dict())
        if bool(stops[0]) == bool(verdict.reason):
            return verdict.reason
        return "rank 0's time is over" if stops[0] else ""

    def go_on(self, history: Sequence[Mapping[str, Any]], step: int) -> str:
        """Begin from a checkpoint, taken at a step of the epoch after these; return why training ends here, or nothing.

        Raises
        ------
        StorageError
            If the weights of the best epoch so far are not there: on all ranks, and before anything is trained.
        """
        reason = "" if step else self.look(history)  # where the last epoch is the best, it has its weights now
        best = self._options.judge(history, self._epochs).best_epoch
        self._world.barrier()  # rank 0 has written them
        if best >= 0 and not storage.exists(self._path(best)):
            raise StorageError(
                f"early_stopping: the weights of epoch {best}, the best so far, were not kept ({self._path(best)} is "
                "not there): it was trained without early_stopping. Go on without it, or train anew in another "
                "run_directory"
            )
        return reason

    def restore_best(self, history: Sequence[Mapping[str, Any]]) -> int:
        """Give the module the weights of the best epoch, and remove what nobody can need; return the epoch."""
        best = self._options.judge(history, self._epochs).best_epoch
        self._world.barrier()  # rank 0 has written them
        if best != len(history) - 1:
            tensors, _ = storage.read_tensors(self._path(best), framework="torch")
            self._module.load_state_dict(tensors)
        self._world.barrier()  # all have read them
        if self._world.rank == 0 and not self._has_checkpoints:
            storage.remove_tree(self._directory)
        return best

    def checkpointed(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Remove what none of the checkpoints can need any more; called after each."""
        self._best_at_checkpoints.append(self._options.judge(history, self._epochs).best_epoch)
        is_full = len(self._best_at_checkpoints) == self._best_at_checkpoints.maxlen  # else older ones may be there
        if self._world.rank or not is_full or not storage.exists(self._directory):
            return
        wanted = {self._path(epoch) for epoch in self._best_at_checkpoints}
        for path in storage.list_files(self._directory):
            if path not in wanted:
                storage.remove_tree(path)

    def _path(self, epoch: int) -> str:
        return storage.join(self._directory, f"epoch-{epoch:05d}.safetensors")
