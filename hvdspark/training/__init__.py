"""What runs on every rank: the worker, its loop, and what it reports."""

from hvdspark.training.hooks import Moment, TrainingHook, TrainingListener
from hvdspark.training.job import Job, RankReport
from hvdspark.training.result import TrainingResult
from hvdspark.training.sharing import AveragingOptions, Sharing, SharingOptions
from hvdspark.training.worker import work

__all__ = [
    "AveragingOptions", "Job", "Moment", "RankReport", "Sharing", "SharingOptions", "TrainingHook", "TrainingListener",
    "TrainingResult", "work",
]  # fmt: skip
