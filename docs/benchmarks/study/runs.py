"""What was chosen for a training, and what came of it."""

import dataclasses
import hashlib
import importlib.metadata
import json
import platform
from typing import Any, NamedTuple

import numpy as np
import torch

__all__ = ["Outcome", "Point", "Run", "Setting", "versions"]


def versions() -> dict[str, str]:
    """Return those of all that a result depends on."""
    return {
        "python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
        "hvdspark": importlib.metadata.version("hvdspark"),
    }  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Setting:
    """What arms are compared under: all but arm, rate and seed.

    Parameters
    ----------
    workload, hidden : str, int
        What is learned, and how wide the network is.
    parameters : int
        Of the network.
    data : str
        sha256 of the data.
    ranks, batch, steps : int
        How many ranks, how many examples a step among them all, how many steps.
    optimizer, schedule : str
        Of each rank.
    libraries : dict
        `versions`.
    """

    workload: str
    hidden: int
    parameters: int
    data: str
    ranks: int
    batch: int
    steps: int
    optimizer: str
    schedule: str
    libraries: dict[str, str]

    @property
    def title(self) -> str:
        """Tell what it is, but for data and libraries."""
        return (
            f"{self.workload}, {self.parameters:,} parameters, {self.ranks} ranks, {self.batch} examples a step, "
            f"{self.steps:,} steps, {self.optimizer}, {self.schedule} rate"
        )

    @property
    def dense_bytes(self) -> int:
        """What a rank sends that exchanges dense float32 gradients in every step."""
        return 4 * self.parameters * self.steps

    @property
    def key(self) -> str:
        """Return a name of this setting, short."""
        return _digest(dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True)
class Run:
    """One training.

    Parameters
    ----------
    setting : Setting
        What it shares with others.
    arm, definition : str
        Name of the arm, and what it is.
    rate : float
        Learning rate, that of the beginning under a schedule.
    seed : int
        Of the weights and of the batches.
    """

    setting: Setting
    arm: str
    definition: str
    rate: float
    seed: int

    @property
    def key(self) -> str:
        """Return a name that two runs share only if all that was chosen is the same; an arm may be renamed."""
        return _digest({**dataclasses.asdict(self), "arm": None})


class Point(NamedTuple):
    """Where a training has come to.

    Parameters
    ----------
    step : int
        Steps done.
    loss : float
        On what is held out, just after ranks have agreed.
    sent, wire : float
        Bytes so far, mean over ranks: see traffic.py.
    """

    step: int
    loss: float
    sent: float
    wire: float


class Outcome(NamedTuple):
    """What came of a training.

    Parameters
    ----------
    points : list of Point
        On the way, the last of which is its end; none if it diverged.
    density : float, optional
        Share of the elements that was sent, if that has a meaning.
    exchanges : int, optional
        How often ranks have come to agree.
    code : str, optional
        `revision` of the code that made it; None where that was not written down.
    """

    points: list[Point]
    density: float | None = None
    exchanges: int | None = None
    code: str | None = None

    @property
    def loss(self) -> float:
        """At the end; infinite if it diverged."""
        return self.points[-1].loss if self.points else float("inf")


def _digest(choices: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(choices, sort_keys=True).encode()).hexdigest()[:16]
