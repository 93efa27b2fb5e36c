"""What an encode looked like, in numbers: Deeplearning4j's encoding debug mode."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark.codec.groups import Groups
from hvdspark.codec.message import Stamp

__all__ = ["EncodingRecord", "Magnitudes", "magnitudes", "records"]

_SAMPLE = 1 << 22
_PERCENTILES = (50.0, 95.0, 99.0, 99.9, 99.99)


@dataclass(frozen=True)
class Magnitudes:
    """How large the elements of ``residual + update`` were before the encode, in units of the update.

    Attributes
    ----------
    mean, largest
        Of ``|residual + update|``.
    percentiles
        By percent: 50, 95, 99, 99.9, 99.99. Above four million elements: of that many, drawn the same way every time.
    """

    mean: float
    largest: float
    percentiles: dict[float, float]


@dataclass(frozen=True)
class EncodingRecord:
    """One group of elements in one encode.

    Attributes
    ----------
    rank, step
        Whose, and which, as the message's header says.
    group, elements, codes
        The position of the group, its size, and how much of it was sent.
    threshold, magnitude
        The tau used, and what a code stands for, or is a multiple of.
    multiple
        The mean multiple of what was sent; 1 where codes have none.
    format, message_bytes
        Of the whole message.
    clipped_mass
        Sum of magnitudes that the residual post-processor has thrown away so far, of all groups.
    magnitudes
        Before the encode.
    """

    rank: int
    step: int
    group: int
    elements: int
    codes: int
    threshold: float
    magnitude: float
    multiple: float
    format: str
    message_bytes: int
    clipped_mass: float
    magnitudes: Magnitudes

    def as_event(self) -> dict[str, Any]:
        """Return the record as plain data, percentiles by name (``"p99.9"``), for a line of JSON."""
        data = asdict(self)
        found = data.pop("magnitudes")
        percentiles = {f"p{percent:g}": value for percent, value in found["percentiles"].items()}
        return {**data, "density": self.density, "mean": found["mean"], "largest": found["largest"], **percentiles}

    @property
    def density(self) -> float:
        """The share of elements sent."""
        return self.codes / self.elements if self.elements else 0.0

    def __str__(self) -> str:
        unit = self.threshold or 1.0
        times = "" if self.multiple == 1.0 else f" x {self.multiple:.2f}"
        percentiles = ", ".join(
            f"p{percent:g} {value:.2e} ({value / unit:.2f} tau)"
            for percent, value in self.magnitudes.percentiles.items()
        )
        return (
            f"rank {self.rank} step {self.step} group {self.group}: {self.codes} of {self.elements} sent "
            f"(density {self.density:.2e}) at tau {self.threshold:.3e}, magnitude {self.magnitude:.3e}{times}; "
            f"{self.format}, {self.message_bytes} bytes; |r|: mean {self.magnitudes.mean:.2e}, {percentiles}, "
            f"max {self.magnitudes.largest:.2e}; clipped so far {self.clipped_mass:.2e}"
        )


def magnitudes(take: Callable[[Any], NDArray[np.float32]], start: int, stop: int) -> Magnitudes:
    """Measure the elements ``start..stop`` that `take` gives for a slice or an index array."""
    size = stop - start
    if size <= _SAMPLE:
        found = np.abs(take(slice(start, stop)))
    else:
        found = np.abs(take(start + np.random.default_rng(size).integers(0, size, _SAMPLE)))
    if not found.size:
        return Magnitudes(0.0, 0.0, dict.fromkeys(_PERCENTILES, 0.0))
    values = np.percentile(found, _PERCENTILES).tolist()
    return Magnitudes(
        float(found.mean(dtype=np.float64)), float(found.max()), dict(zip(_PERCENTILES, values, strict=True))
    )


def records(
    spans: Sequence[tuple[int, int]],
    groups: Groups,
    taus: Sequence[float],
    multiples: Sequence[float],
    seen: Sequence[Magnitudes],
    about: tuple[Stamp, str, int, float],
) -> Iterator[EncodingRecord]:
    """Make a record of each group.

    `multiples` is their mean in each group; `about` the message: its stamp, format, size, and the clipped mass so far.
    """
    stamp, form, message_bytes, clipped_mass = about
    for group, ((start, stop), found) in enumerate(zip(spans, seen, strict=True)):
        yield EncodingRecord(
            rank=stamp.rank,
            step=stamp.step,
            group=group,
            elements=stop - start,
            codes=groups.counts[group],
            threshold=taus[group],
            magnitude=groups.magnitudes[group],
            multiple=multiples[group],
            format=form,
            message_bytes=message_bytes,
            clipped_mass=clipped_mass,
            magnitudes=found,
        )
