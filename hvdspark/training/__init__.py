"""What runs on every rank: the worker, its loop, and what it reports."""

from hvdspark.training.job import Job, RankReport
from hvdspark.training.result import TrainingResult
from hvdspark.training.sharing import AveragingOptions, Sharing, SharingOptions
from hvdspark.training.worker import work

__all__ = ["AveragingOptions", "Job", "RankReport", "Sharing", "SharingOptions", "TrainingResult", "work"]
