"""The thresholds of all groups of elements: one rule, a state for each group."""

from __future__ import annotations  # else the types of the function in `_next` are made anew at every step

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark.codec.groups import Groups
from hvdspark.codec.quantile import magnitude_quantile
from hvdspark.codec.tau import MAX_TAU, MIN_TAU
from hvdspark.codec.threshold import ThresholdAlgorithm, ThresholdState
from hvdspark.errors import ConfigurationError

__all__ = ["Thresholds"]

Take = Callable[[Any], NDArray[np.float32]]
_CHUNK = 1 << 16


class Thresholds:
    """Asks a threshold algorithm for the threshold of each group, and remembers what it must be told next time.

    Parameters
    ----------
    algorithm
        The rule.
    ends
        Where each group of elements ends; the last one is the number of elements.
    """

    def __init__(self, algorithm: ThresholdAlgorithm, ends: Sequence[int]) -> None:
        self._algorithm = algorithm
        self.spans = list(zip([0, *ends[:-1]], ends, strict=True))
        self.states = [ThresholdState(elements=stop - start) for start, stop in self.spans]

    def next(self, totals: Take) -> list[float]:
        """Return the threshold of each group for the encode that comes now, a float32 number; 0 while undecided.

        Parameters
        ----------
        totals
            Gives the elements of ``residual + update`` that a slice or an index array names.
        """
        found: list[float] = np.array([self._next(group, totals) for group in range(len(self.spans))], "f4").tolist()
        return found

    def _next(self, group: int, totals: Take) -> float:
        start, stop = self.spans[group]

        def take(where: Any) -> NDArray[np.float32]:
            if isinstance(where, slice):
                return totals(slice(start + where.start, min(start + where.stop, stop)))
            return totals(where + start)

        if start == stop:
            return 0.0
        name = type(self._algorithm).__name__
        found: list[float] = []

        def quantile(density: float) -> float:
            found.append(magnitude_quantile(take, stop - start, density))
            return found[-1]

        threshold = self._algorithm.next_threshold(self.states[group], quantile)
        if threshold is None:
            if 0.0 not in found and not _is_zero(take, stop - start):  # a quantile is zero only where all elements are
                raise ConfigurationError(f"{name} gave no threshold for an update that is not zero")
            return 0.0
        if not (math.isfinite(threshold) and threshold > 0):
            raise ConfigurationError(f"{name} gave {threshold}: a threshold is above zero, finite")
        return min(max(float(threshold), MIN_TAU), MAX_TAU)  # beyond, it would only take as long to come back

    def advance(self, thresholds: Sequence[float], densities: Sequence[float]) -> None:
        """Remember what was used and what came of it."""
        self.states = [
            ThresholdState(state.iteration + 1, threshold or None, density, state.elements)
            for state, threshold, density in zip(self.states, thresholds, densities, strict=True)
        ]

    def agree(self, groups: Sequence[Groups], densities: Sequence[Sequence[float]]) -> None:
        """Go on from the means over all ranks, so that all of them use the same thresholds next time.

        Parameters
        ----------
        groups, densities
            What the message of each rank says of its groups, in rank order, and the densities of them.
        """
        for group, state in enumerate(self.states):
            decided = [each.thresholds[group] for each in groups if each.thresholds[group] > 0]
            threshold = float(np.float32(math.fsum(decided) / len(decided))) if decided else state.threshold
            density = math.fsum(each[group] for each in densities) / len(densities)
            self.states[group] = ThresholdState(state.iteration, threshold, density, state.elements)


def _is_zero(take: Take, size: int) -> bool:
    """Tell whether residual and update are zero, as this process counts zero: it may flush denormal numbers."""
    return not any(np.any(take(slice(begin, begin + _CHUNK)) != 0) for begin in range(0, size, _CHUNK))
