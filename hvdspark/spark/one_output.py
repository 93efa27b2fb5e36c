"""What front ends for networks with one output measure of it: one result each."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

from hvdspark.data import Loader
from hvdspark.errors import ConfigurationError
from hvdspark.evaluation import (
    ROC,
    ClassMeasure,
    Evaluation,
    RegressionEvaluation,
    RegressionMeasure,
    RocMeasure,
    ROCMultiClass,
    RocMultiClassMeasure,
)
from hvdspark.network import JointLoss
from hvdspark.spark.evaluation import as_measures, check_tells_classes
from hvdspark.spark.measured import MeasuredModel
from hvdspark.spark.model import TrainingData

__all__ = ["OneOutput"]


class OneOutput(MeasuredModel, abc.ABC):
    """A network on Spark with one output, evaluated on everything that `fit` takes."""

    def evaluate(
        self,
        data: TrainingData,
        *,
        labels: Sequence[str] | None = None,
        top_n: int = 1,
        batch_size: int = 64,
        loader: Loader | None = None,
    ) -> Evaluation:
        """Count how well classes are told apart (CrossEntropyLoss, NLLLoss, and BCE losses with one output).

        Parameters
        ----------
        data : DataFrame, RDD, path or list of paths
            What `fit` takes. Each row counts once, whatever its weight; a labels mask says which steps count.
        labels : sequence of str, optional
            Names of the classes, in order.
        top_n : int
            What `top_n_accuracy` looks at.
        batch_size : int
            Rows that go through the network at a time.
        loader : callable, optional
            As of `fit`.

        Raises
        ------
        ConfigurationError
            If the network does not tell classes apart.
        DataError
            If rows cannot be read, labels are no class indices, or there is no row.
        """
        check_tells_classes(self.network, "evaluate")
        measure = ClassMeasure(labels=tuple(labels or ()), top_n=top_n)
        (found,) = self._evaluate(data, [measure], batch_size, loader, one_class="evaluate")
        evaluation: Evaluation = found
        return evaluation

    def evaluate_regression(
        self,
        data: TrainingData,
        *,
        columns: Sequence[str] | None = None,
        batch_size: int = 64,
        loader: Loader | None = None,
    ) -> RegressionEvaluation:
        """Compare values column by column.

        Parameters
        ----------
        data, batch_size, loader
            As of `evaluate`.
        columns : sequence of str, optional
            Names of the output's columns, in order.

        Raises
        ------
        ConfigurationError
            If the network tells classes apart, or has several outputs.
        """
        if self.network.is_classifier:
            raise ConfigurationError(
                f"evaluate_regression compares values, but the loss is {type(self.network.loss).__name__}: use evaluate"
            )
        if isinstance(self.network.loss, JointLoss):
            raise ConfigurationError(
                "evaluate_regression compares the values of one output, but the loss is JointLoss, of several: "
                "SparkComputationGraph evaluates each, do_evaluation(data, RegressionMeasure(output=1)) one"
            )
        measure = RegressionMeasure(columns=tuple(columns or ()))
        (found,) = self._evaluate(data, [measure], batch_size, loader)
        evaluation: RegressionEvaluation = found
        return evaluation

    def evaluate_roc(
        self, data: TrainingData, *, threshold_steps: int = 32, batch_size: int = 64, loader: Loader | None = None
    ) -> ROC:
        """Compute the ROC of class 1, for networks with one output or two classes.

        Parameters
        ----------
        data, batch_size, loader
            As of `evaluate`.
        threshold_steps : int
            Thresholds 0, 1/k, ..., 1; 0 keeps every score and is exact.
        """
        check_tells_classes(self.network, "evaluate_roc")
        measure = RocMeasure(threshold_steps=threshold_steps)
        (found,) = self._evaluate(data, [measure], batch_size, loader, one_class="evaluate_roc")
        roc: ROC = found
        return roc

    def evaluate_roc_multi_class(
        self,
        data: TrainingData,
        *,
        threshold_steps: int = 32,
        labels: Sequence[str] | None = None,
        batch_size: int = 64,
        loader: Loader | None = None,
    ) -> ROCMultiClass:
        """Compute the ROC of each class against all others; parameters as of `evaluate` and `evaluate_roc`."""
        check_tells_classes(self.network, "evaluate_roc_multi_class")
        measure = RocMultiClassMeasure(threshold_steps=threshold_steps, labels=tuple(labels or ()))
        (found,) = self._evaluate(data, [measure], batch_size, loader, one_class="evaluate_roc_multi_class")
        rocs: ROCMultiClass = found
        return rocs

    def do_evaluation(
        self, data: TrainingData, *measures: Any, batch_size: int = 64, loader: Loader | None = None
    ) -> list[Any]:
        """Take several measures in one pass.

        Parameters
        ----------
        data, batch_size, loader
            As of `evaluate`.
        measures : Measure, torchmetrics.Metric or torchmetrics.MetricCollection
            What is measured. Metrics see what the network says (probabilities or values) and the labels.

        Returns
        -------
        list
            The result of each, in their order; that of a metric is a dict by its name.

        Raises
        ------
        UnsupportedError
            If a metric does not merge over partitions; nothing has run then.
        """
        return self._evaluate(data, as_measures(measures), batch_size, loader)
