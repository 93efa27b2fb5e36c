"""Scores and measures over batches; they merge, and need no Spark."""

from hvdspark.evaluation.binary import BinaryMeasure, EvaluationBinary
from hvdspark.evaluation.calibration import CalibrationMeasure, EvaluationCalibration, Histogram, ReliabilityCurve
from hvdspark.evaluation.classification import ClassMeasure, Evaluation, confusion_counts
from hvdspark.evaluation.measure import Measure, State, merge_all
from hvdspark.evaluation.parts import Batch, collect, combine, evaluate_batches, for_each_output, merge_parts
from hvdspark.evaluation.regression import RegressionEvaluation, RegressionMeasure
from hvdspark.evaluation.result import Result
from hvdspark.evaluation.roc import ROC, PrecisionRecallCurve, RocCurve
from hvdspark.evaluation.scores import (
    ROCBinary,
    RocBinaryMeasure,
    RocMeasure,
    ROCMultiClass,
    RocMultiClassMeasure,
    ScoreMeasure,
)
from hvdspark.evaluation.torch_metric import TorchMeasure

__all__ = [
    "ROC",
    "Batch",
    "BinaryMeasure",
    "CalibrationMeasure",
    "ClassMeasure",
    "Evaluation",
    "EvaluationBinary",
    "EvaluationCalibration",
    "Histogram",
    "Measure",
    "PrecisionRecallCurve",
    "ROCBinary",
    "ROCMultiClass",
    "RegressionEvaluation",
    "RegressionMeasure",
    "ReliabilityCurve",
    "Result",
    "RocBinaryMeasure",
    "RocCurve",
    "RocMeasure",
    "RocMultiClassMeasure",
    "ScoreMeasure",
    "State",
    "TorchMeasure",
    "collect",
    "combine",
    "confusion_counts",
    "evaluate_batches",
    "for_each_output",
    "merge_all",
    "merge_parts",
]
