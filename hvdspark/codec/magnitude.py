"""What a code stands for, and how that leaves the residual."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvdspark.codec import multiples
from hvdspark.codec.store import Store
from hvdspark.codec.tau import round_tau

__all__ = ["MAGNITUDES", "Magnitude", "Taken"]


class Taken(NamedTuple):
    """What codes have taken off the residual.

    Attributes
    ----------
    magnitudes
        What a code of each group stands for, float32 numbers; 0 where there are no codes.
    multiples
        ``[count] uint8``: how many of them each code stands for; None: one.
    """

    magnitudes: list[float]
    multiples: NDArray[np.uint8] | None = None

    def put_back(self, store: Store, codes: NDArray[np.int32], ends: NDArray[np.int64]) -> None:
        """Add it to the residual."""
        values = np.array(self.magnitudes, np.float32)
        if self.multiples is None:
            store.add_codes(codes, ends, values)
        else:
            store.add_codes(codes, ends, multiples.values_of(values), self.multiples)

    def mean_multiples(self, counts: Sequence[int]) -> list[float]:
        """Return the mean multiple of each group; 1 where there are none."""
        if self.multiples is None:
            return [1.0] * len(counts)
        parts = np.split(self.multiples, np.cumsum(counts)[:-1])
        return [float(part.mean()) if part.size else 1.0 for part in parts]


class Magnitude(ABC):
    """A rule for what codes stand for. It holds no state.

    Law: what `steps` and then `take` take off an element is what the decoder adds, never more than twice the element.
    """

    name: str
    """What users call it: a value of the encoder's ``magnitude``."""

    bits: int = 0
    """Bits of a message that each code takes for its multiple."""

    def steps(self, taus: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return what the pass that finds the codes takes off each, ``[groups] float32``: nothing."""
        return np.zeros_like(taus)

    @abstractmethod
    def take(self, store: Store, codes: NDArray[np.int32], counts: list[int], taus: list[float]) -> Taken:
        """Take the rest of what codes stand for off the residual; return all that is off now.

        Parameters
        ----------
        store
            Holds the residual.
        codes
            ``[count] int32``: what the pass found.
        counts
            Codes of each group.
        taus
            The threshold of each, float32 numbers.
        """


class ThresholdMagnitude(Magnitude):
    """A code stands for the threshold (Strom 2015)."""

    name = "threshold"

    def steps(self, taus: NDArray[np.float32]) -> NDArray[np.float32]:
        """Take the threshold."""
        return taus

    def take(
        self,
        store: Store,  # noqa: ARG002  # the pass has taken all off
        codes: NDArray[np.int32],  # noqa: ARG002
        counts: list[int],
        taus: list[float],
    ) -> Taken:
        """Leave the residual as it is."""
        return Taken(_where_sent(counts, taus))


class MeanMagnitude(Magnitude):
    """A code stands for the mean magnitude of what is sent of its group, at most twice the threshold."""

    name = "mean"

    def take(self, store: Store, codes: NDArray[np.int32], counts: list[int], taus: list[float]) -> Taken:
        """Take the means off."""
        ends = np.cumsum(counts)
        means = [0.0] * len(counts)
        for group, (end, count, tau) in enumerate(zip(ends.tolist(), counts, taus, strict=True)):
            if count:
                mean = store.sum_coded(codes[end - count : end]) / count
                means[group] = round_tau(min(mean, 2 * tau))  # above it, r - mean would be rounded
        store.add_codes(codes, ends, -np.array(means, np.float32))
        return Taken(means)


class MultiplesMagnitude(Magnitude):
    """A code stands for 1 to 8 times the threshold: the largest multiple that is no larger than the element."""

    name = "multiples"
    bits = multiples.BITS

    def take(self, store: Store, codes: NDArray[np.int32], counts: list[int], taus: list[float]) -> Taken:
        """Take the multiples off, each in one subtraction: after a first threshold the rest could be rounded twice."""
        found = store.take_multiples(codes, np.cumsum(counts), np.array(taus, np.float32))
        return Taken(_where_sent(counts, taus), found)


def _where_sent(counts: list[int], taus: list[float]) -> list[float]:
    return [tau if count else 0.0 for count, tau in zip(counts, taus, strict=True)]


MAGNITUDES: dict[str, Magnitude] = {
    made.name: made for made in (ThresholdMagnitude(), MeanMagnitude(), MultiplesMagnitude())
}
