"""Which learning rate: the same grid, and the same number of trainings, for every arm.

A rate that suits one arm may ruin another. All try rates of one grid, each twice the one before. A grid wide enough for
all would spend most of the trainings on rates that diverge or barely move; so each arm tries three in the middle, and
then goes on beyond the side that looks better, until it has had as many as the others.
"""

from collections.abc import Callable, Mapping

__all__ = ["MIN_RATES", "search"]

MIN_RATES = 3


def search(loss_at: Callable[[float], float], middle: float, count: int) -> float:
    """Return the best of `count` rates, at least `MIN_RATES`, a factor of two apart."""
    found = {exponent: loss_at(middle * 2.0**exponent) for exponent in (-1, 0, 1)}
    while len(found) < count:
        exponent = _next(found)
        found[exponent] = loss_at(middle * 2.0**exponent)
    return middle * 2.0 ** min(found, key=found.__getitem__)


def _next(found: Mapping[int, float]) -> int:
    low, high = min(found), max(found)
    best = min(sorted(found), key=found.__getitem__)  # of several that diverge the lowest
    if best == low or (best != high and found[best - 1] < found[best + 1]):
        return low - 1
    return high + 1
