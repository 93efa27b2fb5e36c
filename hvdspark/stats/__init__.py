"""Figures of a run and their report."""

from hvdspark.stats.summary import RankStats, TrainingStats

__all__ = ["RankStats", "TrainingStats"]
