"""What every front end on Spark measures: scores, and evaluations of each kind."""

from __future__ import annotations

import abc
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hvdspark.data import Loader, Source, TableSource
from hvdspark.errors import ConfigurationError, UnsupportedError
from hvdspark.evaluation import Measure
from hvdspark.masters import TrainingMaster
from hvdspark.network import Network
from hvdspark.spark.evaluation import calculate_score, evaluate
from hvdspark.spark.model import SparkModel, TrainingData
from hvdspark.spark.scoring import score_rdd, score_table
from hvdspark.spark.slots import Slots
from hvdspark.spark.sources import open_source

if TYPE_CHECKING:
    from pyspark import RDD
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["MeasuredModel"]


class MeasuredModel(SparkModel, abc.ABC):
    """A network on Spark that can be scored, and measured in one pass, on everything that `fit` takes.

    Parameters
    ----------
    spark, network, training_master, device
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
        device: str | None,
    ) -> None:
        super().__init__(spark, network, training_master, device)
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

    def calculate_score(
        self, data: TrainingData, *, average: bool = True, batch_size: int = 64, loader: Loader | None = None
    ) -> float:
        """Compute the loss over all examples, without regularisation; masks and weights act as in training.

        Parameters
        ----------
        data : DataFrame, RDD, path or list of paths
            What `fit` takes.
        average : bool
            The mean over the examples; False: the sum.
        batch_size : int
            Rows that go through the network at a time.
        loader : callable, optional
            As of `fit`.
        """
        source = self._source(data, loader, weighted=True)
        return calculate_score(source, self.network, average=average, **self._how(batch_size))

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
        how["device"] = self._where()
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
        self, data: TrainingData, measures: Sequence[Measure], batch_size: int, loader: Loader | None, **how: Any
    ) -> list[Any]:
        source = self._source(data, loader, weighted=False)
        return evaluate(source, self.network, measures, **self._how(batch_size), **how)

    def _source(self, data: TrainingData, loader: Loader | None, *, weighted: bool) -> Source:
        def plan(frame: DataFrame, validation_col: str | None) -> Any:
            return self._plan(frame, validation_col, weighted=weighted)

        return open_source(self.spark, data, plan, loader=loader)

    def _how(self, batch_size: int) -> dict[str, Any]:
        slots = Slots(f"evaluation-{self._slots_name}", self.default_evaluation_workers)
        return {"batch_size": batch_size, "slots": slots, "device": self._where()}
