"""The table of phases: how often, how long, by rank."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

import numpy as np

from hvdspark.stats.spans import RankTrace

__all__ = ["OWN_WORK", "PhaseStats", "phase_table"]

#: What a rank does by itself in a step; the rest it does, or waits for, together with the others.
OWN_WORK = ("load", "forward_backward", "hooks", "update", "encode", "decode", "join", "apply", "garbage")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PhaseStats:
    """The figures of one phase on one rank. `pandas.DataFrame(stats.phases)` makes a table of them.

    Parameters
    ----------
    rank : int
        Whose.
    phase : str
        Which.
    count : int
        How often it was entered, over all steps; several times a step, where it is in several parts.
    total_s, mean_s, max_s : float
        Seconds: in all, of one, and of the longest, over all steps.
    p50_s, p95_s : float
        Percentiles of one, over the steps that were kept (all of them in a short run); NaN where none was.
    """

    rank: int
    phase: str
    count: int
    total_s: float
    mean_s: float
    p50_s: float
    p95_s: float
    max_s: float


def phase_table(traces: Iterable[RankTrace]) -> tuple[PhaseStats, ...]:
    """Return a line a rank and phase, in the order in which they were first seen."""
    return tuple(_line(trace, name) for trace in traces for name in trace.totals)


def _line(trace: RankTrace, name: str) -> PhaseStats:
    count, total, longest = trace.totals[name]
    spans = trace.named(name)
    p50, p95 = np.percentile((spans["end"] - spans["begin"]) / 1e9, [50, 95]) if spans.size else (np.nan, np.nan)
    return PhaseStats(
        rank=trace.rank,
        phase=name,
        count=count,
        total_s=total,
        mean_s=total / count,
        p50_s=float(p50),
        p95_s=float(p95),
        max_s=longest,
    )
