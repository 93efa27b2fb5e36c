"""What one rank records of its phases: all of them in counts and sums, a bounded number of them one by one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

from hvdspark import storage
from hvdspark.errors import ConfigurationError
from hvdspark.stats.clock import Clock

__all__ = ["RARE", "SPAN_LIMIT", "SpanRecorder", "trace_directory", "trace_path"]

#: How many phases a rank keeps one by one: about a megabyte of file.
SPAN_LIMIT = 10_000
#: Not of every step, and long: they are thinned apart from what is in steps, else few would be left.
RARE = frozenset({"start", "epoch_end", "validate", "checkpoint", "garbage"})

Item = TypeVar("Item")


def trace_directory(run_directory: str) -> str:
    """Return where the ranks of a run leave what they recorded."""
    return storage.join(run_directory, "phases")


def trace_path(run_directory: str, rank: int) -> str:
    """Return where a rank leaves it: beside the events, in their format, JSON lines."""
    return storage.join(trace_directory(run_directory), f"rank-{rank:05d}.jsonl")


class SpanRecorder:
    """Records phases in memory, and writes them when the rank is done. Any thread may record.

    Beyond `limit` phases every second step is forgotten, then every second of those that are left, and so on: what is
    kept is spread evenly over the whole run. Counts, sums and maxima are of all.

    Parameters
    ----------
    limit : int
        How many are kept one by one.
    """

    def __init__(self, limit: int = SPAN_LIMIT) -> None:
        if limit < 2:
            raise ConfigurationError(f"limit: a number from 2 is needed, not {limit!r}")
        self.totals: dict[str, list[float]] = {}  # count, seconds, longest
        self.steps = 0
        self._lock = threading.Lock()
        self._of_steps = _Sample(limit - limit // 4)
        self._rare = _Sample(limit // 4)
        self._num_rare = 0
        self._tracks: dict[int, int] = {threading.get_ident(): 0}

    @property
    def stride(self) -> int:
        """Of how many steps one is kept."""
        return self._of_steps.stride

    def record(self, name: str, begin: float, end: float) -> None:
        """Record a phase, given its begin and end on `time.perf_counter`."""
        seconds, thread = end - begin, threading.get_ident()
        with self._lock:
            track = self._tracks.setdefault(thread, len(self._tracks))
            total = self.totals.get(name)
            if total is None:
                self.totals[name] = [1, seconds, seconds]
            else:
                total[0] += 1
                total[1] += seconds
                total[2] = max(total[2], seconds)
            if name in RARE:
                self._rare.add(self._num_rare, (name, track, begin, end))
                self._num_rare += 1
            else:
                self._of_steps.add(self.steps, (name, track, begin, end))

    def stepping(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield the batches, and record as a step the time from asking for one to asking for the next."""
        iterator = iter(batches)
        while True:
            begin = time.perf_counter()
            batch = next(iterator, None)
            if batch is None:
                return
            yield batch
            self.record("step", begin, time.perf_counter())
            with self._lock:
                self.steps += 1

    def records(self, rank: int, host: str, clock: Clock) -> Iterator[dict[str, Any]]:
        """Yield what is written, a record a line."""
        yield {
            "kind": "rank", "time": round(time.time(), 3), "rank": rank, "host": host, "steps": self.steps,
            "stride": self.stride, "rare_stride": self._rare.stride,
            "at_s": clock.at_s, "to_wall_s": clock.to_wall_s, "uncertainty_s": clock.uncertainty_s,
        }  # fmt: skip
        for name, (count, total, longest) in self.totals.items():
            yield {"kind": "phase", "rank": rank, "name": name, "count": count, "total_s": total, "max_s": longest}
        for sample, is_step in ((self._rare, False), (self._of_steps, True)):
            for ordinal, spans in sample.grouped():
                timed = [[name, track, round(begin, 9), round(end, 9)] for name, track, begin, end in spans]
                yield {"kind": "spans", "rank": rank, "step": ordinal if is_step else -1, "spans": timed}


class _Sample:
    """Keeps what belongs to every so many-th number, at most `limit` altogether."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: list[tuple[int, tuple[str, int, float, float]]] = []
        self.stride = 1

    def add(self, number: int, span: tuple[str, int, float, float]) -> None:
        if number % self.stride:
            return
        if len(self._kept) >= self._limit:
            if self._kept[0][0] == number:  # all of one number: nothing to thin
                return
            self.stride *= 2
            self._kept = [each for each in self._kept if not each[0] % self.stride]
            if number % self.stride or len(self._kept) >= self._limit:  # the latter: all of them of one number
                return
        self._kept.append((number, span))

    def grouped(self) -> Iterator[tuple[int, list[tuple[str, int, float, float]]]]:
        groups: dict[int, list[tuple[str, int, float, float]]] = {}
        for number, span in self._kept:
            groups.setdefault(number, []).append(span)
        yield from groups.items()
