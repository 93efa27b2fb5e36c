"""SparkMultiLayer: a network with one input and one output, trained and used on Spark."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hvdspark.data import Table, TableSource, plan_columns, use_driver_python
from hvdspark.errors import ConfigurationError, UnsupportedError
from hvdspark.evaluation import Evaluation
from hvdspark.masters import TrainingMaster
from hvdspark.network import Network
from hvdspark.spark.evaluation import evaluate_classes
from hvdspark.spark.inference import predict
from hvdspark.stats import TrainingStats
from hvdspark.training import TrainingResult

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["SparkDl4jMultiLayer", "SparkMultiLayer"]


class SparkMultiLayer:
    """A network on Spark: fit, evaluate, predict.

    Parameters
    ----------
    spark : SparkSession
        Where it runs.
    network : Network
        What is trained and used.
    training_master : TrainingMaster, optional
        How it is trained; without one, `fit` is refused.
    features_col : str or list of str
        A column of vectors or arrays, or several scalar columns.
    label_col : str
        The label's column.
    """

    def __init__(
        self,
        spark: SparkSession,
        network: Network,
        training_master: TrainingMaster | None = None,
        *,
        features_col: str | Sequence[str] = "features",
        label_col: str = "label",
    ) -> None:
        if training_master is not None and not isinstance(training_master, TrainingMaster):
            raise ConfigurationError(
                f"training_master: a TrainingMaster is needed, this is a {type(training_master).__name__}"
            )
        if not isinstance(label_col, str):
            raise ConfigurationError(
                f"label_col: the name of a column is needed, not {label_col!r}; predict ignores it"
            )
        self.spark = spark
        self.network = network
        self.training_master = training_master
        self.features_col = features_col if isinstance(features_col, str) else list(features_col)
        self.label_col = label_col
        self._result: TrainingResult | None = None
        use_driver_python(spark)

    @property
    def network(self) -> Network:
        """The network; setting another replaces what is trained and used from then on."""
        return self._network

    @network.setter
    def network(self, network: Network) -> None:
        if not isinstance(network, Network):
            raise ConfigurationError(f"network: a Network is needed, this is a {type(network).__name__}")
        self._network = network

    @property
    def score(self) -> float | None:
        """The mean loss of the last epoch of the last fit; None before a fit."""
        return self._result.score if self._result else None

    @property
    def stats(self) -> TrainingStats | None:
        """The figures of the last fit; None before a fit."""
        return self._result.stats if self._result else None

    def fit(
        self,
        data: DataFrame,
        *,
        epochs: int = 1,
        validation: DataFrame | None = None,
        run_directory: str | None = None,
    ) -> TrainingResult:
        """Train the network.

        Parameters
        ----------
        data : DataFrame
            With the columns of features and label. It is staged once, as Parquet, and every row is trained on once an
            epoch.
        epochs : int
            Passes over the data.
        validation : DataFrame, optional
            Scored after each epoch.
        run_directory : str, optional
            Where events and weights go. None: a temporary folder, on a local master only; on a cluster a path or URL
            that the driver and every worker reach.

        Returns
        -------
        TrainingResult
            Prints as a small table.
        """
        if self.training_master is None:
            raise ConfigurationError(
                "fit needs a training master: SparkMultiLayer(spark, network, SharedTrainingMaster(...))"
            )
        self._result = self.training_master.fit(
            self.spark,
            self.network,
            TableSource(self._table(data)),
            epochs=epochs,
            validation=None if validation is None else TableSource(self._table(validation)),
            run_directory=run_directory,
        )
        return self._result

    def evaluate(self, data: DataFrame, *, batch_size: int = 64) -> Evaluation:
        """Count how well classes are told apart (CrossEntropyLoss, NLLLoss, and BCE losses with one output).

        Parameters
        ----------
        data : DataFrame
            With the columns of features and label.
        batch_size : int
            Rows that go through the network at a time.
        """
        return evaluate_classes(self.network, self._table(data), batch_size)

    def predict(self, data: DataFrame, *, batch_size: int = 64) -> DataFrame:
        """Add `prediction` (class index as a double, or the value) and, for class losses, `probability`.

        Parameters
        ----------
        data : DataFrame
            With the columns of features; all its columns are kept.
        batch_size : int
            Rows that go through the network at a time.
        """
        return predict(self.network, self._table(data, labelled=False), batch_size)

    def _table(self, data: Any, *, labelled: bool = True) -> Table:
        frame = _dataframe(data)
        label_col = self.label_col if labelled else None
        return Table(frame, plan_columns(frame, features_col=self.features_col, label_col=label_col))


def _dataframe(data: Any) -> DataFrame:
    from pyspark.sql import DataFrame

    if not isinstance(data, DataFrame):
        raise UnsupportedError(
            f"a Spark DataFrame is needed, this is a {type(data).__name__}: spark.createDataFrame(...)"
        )
    return data


#: The seed API's name of the same class.
SparkDl4jMultiLayer = SparkMultiLayer
