"""What a rank records of its own phases, and how its clock stands to rank 0's."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

import numpy as np

from hvdspark import storage
from hvdspark.collectives import Collective
from hvdspark.stats import Clock, OffsetBounds, SpanRecorder, trace_directory, trace_path
from hvdspark.sync import Synchroniser
from hvdspark.sync.phases import Phases

__all__ = ["Recording"]

_ROUNDS = 12  # of messages of 24 bytes: the quickest of them decides

Item = TypeVar("Item")


class Recording:
    """Records the phases of one rank from here on. All ranks make one, and call `end`, at the same time.

    Parameters
    ----------
    run_directory : str
        Path or URL of the run; the records are written there at the end.
    world : Collective
        The ranks.
    """

    def __init__(self, run_directory: str, world: Collective) -> None:
        self._begin = time.perf_counter()
        self._run_directory = run_directory
        self._world = world
        self._first = _compare(world)
        self._recorder = SpanRecorder()

    def begin(self, phases: Phases, optimizer: Synchroniser) -> None:
        """Record these phases; what went before is the start."""
        self._recorder.record("start", self._begin, time.perf_counter())
        phases.watch(self._recorder.record)
        optimizer.watch(self._recorder.record)

    def stepping(self, batches: Iterable[Item]) -> Iterator[Item]:
        """Yield the batches, and record the time between them as steps."""
        return self._recorder.stepping(batches)

    def end(self) -> None:
        """Write what was recorded, over what an attempt before this one may have left."""
        (before, wall_before, doubt), (after, wall_after, more) = self._first, _compare(self._world)
        clock = Clock(at_s=(before, after), to_wall_s=(wall_before, wall_after), uncertainty_s=max(doubt, more))
        records = self._recorder.records(self._world.rank, self._world.host, clock)
        text = "".join(json.dumps(record, allow_nan=False) + "\n" for record in records)
        storage.make_directories(trace_directory(self._run_directory))
        storage.write_bytes(trace_path(self._run_directory, self._world.rank), text.encode())


def _compare(world: Collective) -> tuple[float, float, float]:
    """Compare this rank's clock with rank 0's; all ranks call it.

    Returns
    -------
    tuple of float
        When, on this rank's `time.perf_counter`; what has to be added then for rank 0's seconds since 1970; and how far
        that can be from the truth.
    """
    bounds = OffsetBounds()
    wall = time.time() - time.perf_counter()
    entered_before = other_entered_before = left = math.nan
    for round_ in range(_ROUNDS + 1):
        entered = time.perf_counter()
        told = np.array([entered, left, wall], np.float64)
        first = world.allgather(told.view(np.uint8))[0]
        other_entered, other_left, other_wall = np.frombuffer(first.tobytes(), np.float64).tolist()
        if round_:  # the last round, whose end is known by now
            bounds.narrow(entered=entered_before, left=left, other_entered=other_entered_before, other_left=other_left)
        left, entered_before, other_entered_before = time.perf_counter(), entered, other_entered
    own = world.rank == 0
    return left, other_wall + (0.0 if own else bounds.offset), 0.0 if own else bounds.uncertainty
