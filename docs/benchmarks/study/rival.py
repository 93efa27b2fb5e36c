"""An optimizer that exchanges in every step: what the study's own rivals have in common."""

import abc
from typing import Any, NamedTuple, final

from torch.optim import Optimizer

from hvdspark.errors import UnsupportedError
from hvdspark.sync.wrapped import WrappedOptimizer

__all__ = ["Report", "Rival"]


class Report(NamedTuple):
    """How often ranks have come to agree, and the share of elements that is sent, if that has a meaning."""

    exchanges: int
    density: float | None


class Rival(WrappedOptimizer, abc.ABC):
    """Wraps a rank's own optimizer; abstract: a subclass says what a step is.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        The rank's own.
    density : float, optional
        Share of the elements that is sent in each step.
    """

    def __init__(self, optimizer: Optimizer, density: float | None = None) -> None:
        super().__init__(optimizer)
        self._density, self._exchanges = density, 0

    @final
    def step(self, closure: None = None) -> None:
        """Take a step together with all ranks."""
        assert closure is None
        self._step()
        self._exchanges += 1

    @abc.abstractmethod
    def _step(self) -> None:
        """Take a step together with all ranks."""

    @final
    def synchronise(self) -> None:
        """Do nothing: all ranks have the same weights after each step."""

    @final
    def report(self) -> Report:
        """Return what was exchanged so far."""
        return Report(self._exchanges, self._density)

    @final
    def state_dict(self) -> dict[str, Any]:
        """Refuse it."""
        raise UnsupportedError("a rival of the study cannot be saved: a training that was broken off starts anew")

    @final
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:  # noqa: ARG002 - refused
        """Refuse it."""
        raise UnsupportedError("a rival of the study cannot be saved: a training that was broken off starts anew")
