"""Figures of a run and their report."""

from hvdspark.stats.clock import Clock, OffsetBounds
from hvdspark.stats.phases import PhaseStats
from hvdspark.stats.recorder import SpanRecorder, trace_directory, trace_path
from hvdspark.stats.spans import DriverSpan, DriverTimes, RankTrace, read_traces
from hvdspark.stats.summary import RankStats, TrainingStats

__all__ = [
    "Clock", "DriverSpan", "DriverTimes", "OffsetBounds", "PhaseStats", "RankStats", "RankTrace", "SpanRecorder",
    "TrainingStats", "read_traces", "trace_directory", "trace_path",
]  # fmt: skip
