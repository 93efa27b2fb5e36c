"""Timing that can be believed on a noisy machine: everything in turn, round after round, and ratios within a round."""

import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Outcome", "interleave", "outcome"]


@dataclass(frozen=True)
class Outcome:
    """What one contestant did.

    Attributes
    ----------
    seconds
        Median of one call.
    ratio
        Median over rounds of the floor's seconds by this one's: 1 is as fast as the floor.
    low, high
        The 95 % interval of that median, from order statistics (no distribution is assumed).
    """

    seconds: float
    ratio: float
    low: float
    high: float


def interleave(
    contestants: dict[str, Callable[[], object]], rounds: int, prepare: Callable[[], object] = lambda: None
) -> dict[str, Outcome]:
    """Time all contestants, the first of which is the floor, in alternating order.

    Parameters
    ----------
    contestants
        What to call, by name.
    rounds
        Rounds that count; two more come before, which compile and touch the memory.
    prepare
        Called before each call, not timed.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(rounds + 2):
        for name in names if number % 2 else reversed(names):
            prepare()
            begin = time.perf_counter()
            contestants[name]()
            seconds[name].append(time.perf_counter() - begin)
    counted = {name: taken[2:] for name, taken in seconds.items()}
    floor = counted[names[0]]
    return {name: outcome(floor, taken) for name, taken in counted.items()}


def outcome(floor: list[float], taken: list[float]) -> Outcome:
    """Say what came out for one contestant, of its seconds and the floor's in the same rounds."""
    ratios = sorted(least / own for least, own in zip(floor, taken, strict=True))
    outside = _outside(len(ratios))
    return Outcome(statistics.median(taken), statistics.median(ratios), ratios[outside], ratios[-1 - outside])


def _outside(count: int) -> int:
    """Return how many of the sorted values lie below the interval (and as many above): P(outside) is at most 5 %."""
    below, probability = 0, 0.5**count
    while probability <= 0.025 and below < count // 2:
        below += 1
        probability += math.comb(count, below) * 0.5**count
    return max(0, below - 1)
