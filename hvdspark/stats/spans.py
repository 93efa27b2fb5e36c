"""What ranks and the driver have recorded, on one clock."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark import storage
from hvdspark.errors import StorageError
from hvdspark.stats.clock import Clock
from hvdspark.stats.recorder import trace_path

__all__ = ["SPAN", "DriverSpan", "DriverTimes", "RankTrace", "read_traces"]

#: One phase: the index of its name, its thread, its step (-1: of none), begin and end in ns since the fit began.
SPAN = np.dtype([("name", "i2"), ("track", "i2"), ("step", "i8"), ("begin", "i8"), ("end", "i8")])


@dataclasses.dataclass(frozen=True, kw_only=True)
class DriverSpan:
    """A phase of the driver.

    Parameters
    ----------
    name : str
        "checks", "staging", "launch", "ranks", "weights" or "records"; "lost attempt" where ranks were lost.
    begin_s, end_s : float
        Seconds since the fit began.
    """

    name: str
    begin_s: float
    end_s: float


class DriverTimes:
    """Records the phases of the driver, each of which follows another."""

    def __init__(self) -> None:
        self._begin = self._last = time.perf_counter()
        self.wall_s = time.time()
        self.spans: list[DriverSpan] = []

    def lap(self, name: str) -> None:
        """End a phase that began where the last one ended."""
        now = time.perf_counter()
        self.spans.append(DriverSpan(name=name, begin_s=self._last - self._begin, end_s=now - self._begin))
        self._last = now


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankTrace:
    """What one rank has recorded.

    Parameters
    ----------
    rank, host
        Who it was.
    steps, stride : int
        Steps taken in the attempt that came to its end, and of how many of them one is in `spans`.
    uncertainty_s : float
        How far its times can be from rank 0's.
    totals : dict
        By phase: count, seconds and the longest, of all steps.
    names : tuple of str
        Of the phases in `spans`.
    spans : ndarray
        `[n] SPAN`, by begin; what encloses others before them.
    """

    rank: int
    host: str
    steps: int
    stride: int
    uncertainty_s: float
    totals: dict[str, tuple[int, float, float]]
    names: tuple[str, ...]
    spans: NDArray[Any]

    def seconds(self, name: str) -> float:
        """Return the sum of a phase over all steps; 0 where there was none."""
        return self.totals[name][1] if name in self.totals else 0.0

    def named(self, name: str) -> NDArray[Any]:
        """Return the spans of one phase."""
        if name not in self.names:
            return self.spans[:0]
        found: NDArray[Any] = self.spans[self.spans["name"] == self.names.index(name)]
        return found

    def shifted(self, ns: int) -> RankTrace:
        """Return it with all times so much later."""
        spans = self.spans.copy()
        spans["begin"] += ns
        spans["end"] += ns
        return dataclasses.replace(self, spans=spans)


def read_traces(
    run_directory: str, num_ranks: int, driver: DriverTimes
) -> tuple[tuple[RankTrace, ...], tuple[DriverSpan, ...]]:
    """Read what all ranks have left, and lay it over the driver's own times.

    Raises
    ------
    StorageError
        If a file is missing or damaged.
    """
    traces = tuple(_read(trace_path(run_directory, rank), driver.wall_s) for rank in range(num_ranks))
    first = min((int(trace.spans["begin"].min()) for trace in traces if trace.spans.size), default=0)
    last = max((int(trace.spans["end"].max()) for trace in traces if trace.spans.size), default=0)
    spans = list(driver.spans)
    place = max((i for i, span in enumerate(spans) if span.name == "ranks"), default=None)
    if place is None or last == 0:
        return traces, tuple(spans)
    ranks = spans[place]
    # The driver's clock may be another host's. What ranks did lies within the driver's waiting for them.
    late = max(0, round(ranks.begin_s * 1e9) - first) or min(0, round(ranks.end_s * 1e9) - last)
    begun = min(max((first + late) / 1e9, ranks.begin_s), ranks.end_s)
    spans[place : place + 1] = [
        DriverSpan(name="launch", begin_s=ranks.begin_s, end_s=begun),
        DriverSpan(name="ranks", begin_s=begun, end_s=ranks.end_s),
    ]
    return tuple(trace.shifted(late) for trace in traces) if late else traces, tuple(spans)


def _read(path: str, origin_s: float) -> RankTrace:
    lines = storage.read_lines(path)
    if not lines or lines[0].get("kind") != "rank":
        raise StorageError(f"{path}: its first line must be of the kind 'rank': the file is damaged")
    head = lines[0]
    clock = Clock(
        at_s=tuple(head["at_s"]), to_wall_s=tuple(head["to_wall_s"]), uncertainty_s=float(head["uncertainty_s"])
    )
    names: dict[str, int] = {}
    found = []
    for line in lines[1:]:
        for name, track, begin, end in line.get("spans", ()):
            index = names.setdefault(name, len(names))
            found.append((index, track, line["step"], clock.since(origin_s, begin), clock.since(origin_s, end)))
    spans = np.array(found, SPAN)
    return RankTrace(
        rank=head["rank"],
        host=head["host"],
        steps=head["steps"],
        stride=head["stride"],
        uncertainty_s=clock.uncertainty_s,
        totals={
            each["name"]: (int(each["count"]), each["total_s"], each["max_s"])
            for each in lines
            if each["kind"] == "phase"
        },
        names=tuple(names),
        spans=spans[np.lexsort((-spans["end"], spans["begin"]))],
    )
