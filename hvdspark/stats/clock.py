"""Clocks of different hosts laid over each other by messages alone: no time server, and an error that is known."""

from __future__ import annotations

import dataclasses
import math

__all__ = ["Clock", "OffsetBounds"]


@dataclasses.dataclass(kw_only=True)
class OffsetBounds:
    """Between what and what another rank's clock is ahead of this one's.

    In a gather nobody leaves before all have entered. So that rank entered before this one left, and this one entered
    before that one left: each round bounds the offset from both sides, and several rounds bound it by the quickest of
    them. No assumption about the network is needed, as it is where one halves a round trip.

    Parameters
    ----------
    lower, upper : float
        Seconds to be added to this rank's clock.
    """

    lower: float = -math.inf
    upper: float = math.inf

    def narrow(self, *, entered: float, left: float, other_entered: float, other_left: float) -> None:
        """Take one round into account: seconds of this rank's clock, and of the other's."""
        self.lower = max(self.lower, other_entered - left)
        self.upper = min(self.upper, other_left - entered)

    @property
    def offset(self) -> float:
        """The middle: seconds."""
        return (self.lower + self.upper) / 2

    @property
    def uncertainty(self) -> float:
        """How far the truth can be from the middle: seconds."""
        return abs(self.upper - self.lower) / 2


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clock:
    """A rank's clock as rank 0 sees it, compared at two moments: between them its drift is taken as even.

    Parameters
    ----------
    at_s : pair of float
        When they were compared, on the rank's own clock.
    to_wall_s : pair of float
        What had to be added then to come to rank 0's seconds since 1970.
    uncertainty_s : float
        How wrong that can be.
    """

    at_s: tuple[float, float]
    to_wall_s: tuple[float, float]
    uncertainty_s: float

    def since(self, origin_s: float, time_s: float) -> int:
        """Return how long after `origin_s`, which is in seconds since 1970, it was `time_s` on this clock: ns."""
        (first, last), (before, after) = self.at_s, self.to_wall_s
        share = 0.0 if last == first else (time_s - first) / (last - first)
        # What is large is subtracted first: as seconds since 1970 a double knows no nanoseconds.
        return round((time_s + (before - origin_s) + share * (after - before)) * 1e9)
