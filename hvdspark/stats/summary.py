"""The figures of a run, by epoch and by rank."""

from __future__ import annotations

import dataclasses
from typing import Any

from hvdspark.errors import ConfigurationError
from hvdspark.stats.phases import PhaseStats, phase_table
from hvdspark.stats.spans import DriverSpan, RankTrace

__all__ = ["RankStats", "TrainingStats"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankStats:
    """The figures of one rank.

    Parameters
    ----------
    rank, host
        Who it was.
    steps, exchanges, examples : int
        Steps taken, how often the ranks met, and examples trained on.
    bytes_sent, dense_bytes : int
        Bytes of its own messages, and what dense ones would have been.
    density, threshold, clipped_mass : float
        Mean share of elements sent, the last threshold, what clipping threw away.
    seconds : dict
        Seconds by phase.
    """

    rank: int
    host: str
    steps: int
    exchanges: int
    examples: int
    bytes_sent: int
    dense_bytes: int
    density: float
    threshold: float
    clipped_mass: float
    seconds: dict[str, float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingStats:
    """The figures of a run.

    Parameters
    ----------
    title : str
        What was trained, for headings.
    history : tuple of dict
        One an epoch.
    ranks : tuple of RankStats
        In rank order.
    options : dict
        The master's options, as JSON-able values.
    staging_s, training_s, total_s : float
        Seconds the driver waited for staging, for the ranks (start included), and in all.
    traces, driver : tuple
        What ranks and driver have recorded of their phases, on one clock; empty without `collect_training_stats`.
    """

    title: str
    history: tuple[dict[str, Any], ...]
    ranks: tuple[RankStats, ...]
    options: dict[str, Any]
    staging_s: float
    training_s: float
    total_s: float
    traces: tuple[RankTrace, ...] = ()
    driver: tuple[DriverSpan, ...] = ()

    @property
    def phases(self) -> tuple[PhaseStats, ...]:
        """A line a rank and phase; empty without ``collect_training_stats=True``."""
        return phase_table(self.traces)

    def to_chrome_trace(self, path: str) -> str:
        """Write the recorded phases as a Chrome trace, for ui.perfetto.dev or chrome://tracing; return its path.

        Raises
        ------
        ConfigurationError
            If none were recorded.
        """
        from hvdspark.stats.trace import chrome_trace
        from hvdspark.storage import write_bytes

        if not self.traces:
            raise ConfigurationError(
                "no phases were recorded: train with collect_training_stats=True in the training master"
            )
        write_bytes(path, chrome_trace(self).encode())
        return path

    def to_html(self, path: str) -> str:
        """Write a report that opens anywhere (one file, no scripts, no outside requests); return its path."""
        from hvdspark.stats.report import render
        from hvdspark.storage import write_bytes

        write_bytes(path, render(self).encode())
        return path

    def _repr_html_(self) -> str:
        from hvdspark.stats.report import render_tables

        return render_tables(self)
