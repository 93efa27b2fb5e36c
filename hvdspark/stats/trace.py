"""A run as a Chrome trace: https://ui.perfetto.dev and chrome://tracing open it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvdspark.stats.spans import RankTrace
    from hvdspark.stats.summary import TrainingStats

__all__ = ["chrome_trace", "track_name"]

_DRIVER = 0  # as a process of the trace; rank r is r + 1


def chrome_trace(stats: TrainingStats) -> str:
    """Return the JSON text: a process for the driver and for each rank, a thread for each of its threads."""
    events = [
        *_named(_DRIVER, "driver", {0: "driver"}),
        *(
            _event(_DRIVER, 0, each.name, round(each.begin_s * 1e9), round(each.end_s * 1e9), {})
            for each in stats.driver
        ),
    ]
    for trace in stats.traces:
        events.extend(_rank(trace))
    facts = {
        "title": stats.title,
        "clock_uncertainty_s": max(trace.uncertainty_s for trace in stats.traces),
        "steps_shown": {str(trace.rank): f"one of {trace.stride}" for trace in stats.traces},
    }
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ms", "otherData": facts}, allow_nan=False)


def track_name(track: int) -> str:
    """Return what happens on a rank's thread: its first trains, another exchanges meanwhile."""
    return "training" if track == 0 else "exchange under way" if track == 1 else f"exchange under way ({track})"


def _rank(trace: RankTrace) -> Iterator[dict[str, Any]]:
    tracks = sorted(set(trace.spans["track"].tolist()))
    process = trace.rank + 1
    yield from _named(process, f"rank {trace.rank} ({trace.host})", {track: track_name(track) for track in tracks})
    for name, track, step, begin, end in trace.spans.tolist():
        yield _event(process, track, trace.names[name], begin, end, {"step": step} if step >= 0 else {})


def _named(process: int, name: str, tracks: dict[int, str]) -> Iterator[dict[str, Any]]:
    yield {"ph": "M", "name": "process_name", "pid": process, "args": {"name": name}}
    yield {"ph": "M", "name": "process_sort_index", "pid": process, "args": {"sort_index": process}}
    for track, title in tracks.items():
        yield {"ph": "M", "name": "thread_name", "pid": process, "tid": track, "args": {"name": title}}


def _event(process: int, track: int, name: str, begin: int, end: int, facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "ph": "X", "name": name, "pid": process, "tid": track, "ts": begin / 1000, "dur": (end - begin) / 1000,
        "args": facts,
    }  # fmt: skip
