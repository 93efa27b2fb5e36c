"""What runs on every rank: the worker, its loop, and what it reports."""

from hvdspark.training.job import Job, RankReport, SharingOptions
from hvdspark.training.result import TrainingResult
from hvdspark.training.worker import work

__all__ = ["Job", "RankReport", "SharingOptions", "TrainingResult", "work"]
