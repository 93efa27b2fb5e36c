"""Scores and measures over batches; they merge, and need no Spark."""

from hvdspark.evaluation.classification import Evaluation, confusion_counts

__all__ = ["Evaluation", "confusion_counts"]
