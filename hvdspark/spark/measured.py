"""What every front end on Spark measures: scores, and evaluations of each kind."""

from __future__ import annotations

import abc
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hvdspark.data import Loader, Source, TableSource
from hvdspark.errors import ConfigurationError, UnsupportedError
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
from hvdspark.masters import TrainingMaster
from hvdspark.network import Network
from hvdspark.spark.evaluation import as_measures, calculate_score, check_tells_classes, evaluate
from hvdspark.spark.model import SparkModel, TrainingData
from hvdspark.spark.scoring import score_rdd, score_table
from hvdspark.spark.slots import Slots
from hvdspark.spark.sources import open_source

if TYPE_CHECKING:
    from pyspark import RDD
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["MeasuredModel"]


class MeasuredModel(SparkModel, abc.ABC):
    """A network on Spark that can be evaluated and scored, on everything that `fit` takes.

    Parameters
    ----------
    spark, network, training_master
        As of `SparkModel`.
    default_evaluation_workers
        How many copies of the network a host holds at once.
    """

    def __init__(
        self,
        spark: SparkSession,
        network: Network,
        training_master: TrainingMaster | None,
        default_evaluation_workers: int,
    ) -> None:
        super().__init__(spark, network, training_master)
        self.default_evaluation_workers = default_evaluation_workers
        self._slots_name = uuid.uuid4().hex

    @property
    def default_evaluation_workers(self) -> int:
        """How many copies of the network a host holds at once in evaluations and `calculate_score`; it may be set.

        Tasks beyond it wait for their turn. Processes that share a temporary folder count as one host.
        """
        return self._evaluation_workers

    @default_evaluation_workers.setter
    def default_evaluation_workers(self, workers: int) -> None:
        if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
            raise ConfigurationError(f"default_evaluation_workers: a whole number from 1 on is needed, not {workers!r}")
        self._evaluation_workers = workers

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
            If the network tells classes apart.
        """
        if self.network.is_classifier:
            raise ConfigurationError(
                f"evaluate_regression compares values, but the loss is {type(self.network.loss).__name__}: use evaluate"
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

    def calculate_score(
        self, data: TrainingData, *, average: bool = True, batch_size: int = 64, loader: Loader | None = None
    ) -> float:
        """Compute the loss over all examples, without regularisation; masks and weights act as in training.

        Parameters
        ----------
        data, batch_size, loader
            As of `evaluate`.
        average : bool
            The mean over the examples; False: the sum.
        """
        source = self._source(data, loader, weighted=True)
        return calculate_score(source, self.network, average=average, batch_size=batch_size, slots=self._slots())

    def score_examples(
        self, data: DataFrame | RDD[Any], *, include_regularization: bool = False, batch_size: int = 64
    ) -> DataFrame | RDD[Any]:
        """Compute the loss of each example by itself. Nothing runs until the result is used.

        Parameters
        ----------
        data : DataFrame or RDD
            A DataFrame (or a path of Parquet); an RDD of what `fit` takes, or of (key, DataSet) pairs with one example
            each.
        include_regularization : bool
            Add the network's l1 and l2 terms to each.
        batch_size : int
            Examples that go through the network at a time.

        Returns
        -------
        DataFrame or RDD
            The DataFrame with a column `score`; an RDD of floats in order; or of (key, float). Weights multiply the
            scores, so that their mean is `calculate_score`.

        Raises
        ------
        UnsupportedError
            If data are of another kind.
        DataError
            If there is a column `score` already.
        """
        from pyspark import RDD

        how: dict[str, Any] = {"include_regularization": include_regularization, "batch_size": batch_size}
        if isinstance(data, RDD):
            return score_rdd(self.network, data, **how)
        source = self._source(data, None, weighted=True)
        if not isinstance(source, TableSource):
            raise UnsupportedError(
                "score_examples takes a DataFrame, Parquet or an RDD: for files of DataSets give the RDD of their "
                "paths, spark.sparkContext.parallelize(paths)"
            )
        return score_table(self.network, source.table, **how)

    def _evaluate(
        self, data: TrainingData, measures: Sequence[Any], batch_size: int, loader: Loader | None, one_class: str = ""
    ) -> list[Any]:
        source = self._source(data, loader, weighted=False)
        slots = self._slots()
        return evaluate(source, self.network, measures, batch_size=batch_size, slots=slots, one_class=one_class)

    def _source(self, data: TrainingData, loader: Loader | None, *, weighted: bool) -> Source:
        def plan(frame: DataFrame, validation_col: str | None) -> Any:
            return self._plan(frame, validation_col, weighted=weighted)

        return open_source(self.spark, data, plan, loader=loader)

    def _slots(self) -> Slots:
        return Slots(f"evaluation-{self._slots_name}", self.default_evaluation_workers)
