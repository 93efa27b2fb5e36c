"""What runs on every rank: the worker, its loop, and what it reports."""

from hvdspark.training.checkpoint import Checkpoint, CheckpointManifest, find_checkpoints
from hvdspark.training.early_stopping import EarlyStopping
from hvdspark.training.hooks import Moment, TrainingHook, TrainingListener
from hvdspark.training.job import Failure, Job, RankReport
from hvdspark.training.result import TrainingResult
from hvdspark.training.sharing import AveragingOptions, Sharing, SharingOptions
from hvdspark.training.worker import work, work_on_partition

__all__ = [
    "AveragingOptions", "Checkpoint", "CheckpointManifest", "EarlyStopping", "Failure", "Job", "Moment", "RankReport",
    "Sharing", "SharingOptions", "TrainingHook", "TrainingListener", "TrainingResult", "find_checkpoints", "work",
    "work_on_partition",
]  # fmt: skip
