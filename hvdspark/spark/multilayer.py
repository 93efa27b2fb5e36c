"""SparkMultiLayer: a network with one input and one output, trained and used on Spark."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from hvdspark.data import (
    ColumnPlan,
    ColumnsLike,
    Loader,
    PointLabels,
    Source,
    Table,
    plan_columns,
    use_driver_python,
)
from hvdspark.errors import ConfigurationError, UnsupportedError
from hvdspark.evaluation import Evaluation
from hvdspark.masters import TrainingMaster
from hvdspark.network import Network
from hvdspark.spark.evaluation import evaluate_classes
from hvdspark.spark.inference import predict
from hvdspark.spark.sources import open_source, open_sources, portable_column
from hvdspark.stats import TrainingStats
from hvdspark.training import EarlyStopping, TrainingResult

if TYPE_CHECKING:
    from pyspark import RDD
    from pyspark.sql import DataFrame, SparkSession

TrainingData: TypeAlias = "DataFrame | RDD[Any] | str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"
"""What `fit` takes."""

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
    features_col : str, list of str or TensorColumn
        A column of vectors or arrays; several scalar columns; or a column with its shape, dtype or decode function. All
        column options serve DataFrames and Parquet files, and are not looked at for RDDs and other files.
    label_col : str, list of str or TensorColumn
        The label's column.
    features_mask_col, labels_mask_col : str, optional
        Columns of 0 and 1, or booleans: which parts of a sequence count (see `Network` for who is told).
    weight_col : str, optional
        A column of numbers from 0 on, which each example's loss is multiplied with in training and validation.
    """

    def __init__(
        self,
        spark: SparkSession,
        network: Network,
        training_master: TrainingMaster | None = None,
        *,
        features_col: ColumnsLike = "features",
        label_col: ColumnsLike = "label",
        features_mask_col: ColumnsLike | None = None,
        labels_mask_col: ColumnsLike | None = None,
        weight_col: str | None = None,
    ) -> None:
        if training_master is not None and not isinstance(training_master, TrainingMaster):
            raise ConfigurationError(
                f"training_master: a TrainingMaster is needed, this is a {type(training_master).__name__}"
            )
        if label_col is None:
            raise ConfigurationError("label_col: the name of a column is needed, not None; predict ignores it")
        self.features_col = features_col
        self.label_col = label_col
        self.features_mask_col = features_mask_col
        self.labels_mask_col = labels_mask_col
        self.weight_col = weight_col
        self.spark = spark
        self.network = network
        self.training_master = training_master
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
        data: TrainingData,
        *,
        epochs: int = 1,
        validation: TrainingData | None = None,
        early_stopping: EarlyStopping | None = None,
        loader: Loader | None = None,
        resume: bool = False,
        run_directory: str | None = None,
    ) -> TrainingResult:
        """Train the network.

        Parameters
        ----------
        data : DataFrame, RDD, path or list of paths
            A DataFrame with the columns of features and label; an RDD of DataSet, MultiDataSet, LabeledPoint, (label,
            vector) pairs or paths; a folder, a file, or a list of files, saved by DataSet.save or Parquet. It is staged
            once, and every example is trained on once an epoch.
        epochs : int
            Passes over the data.
        validation : the same, or str, optional
            Scored after each epoch. The name of a boolean column of the training table: its true rows are held back.
        early_stopping : EarlyStopping, optional
            When training ends before that; the network gets the weights of the best epoch.
        loader : callable, optional
            Reads one file of another format: path -> DataSet or MultiDataSet. It runs on the workers.
        resume : bool
            Go on from the last whole checkpoint in the run directory (see `Checkpoint`), with the same data, network
            and options, to the weights that the run would have come to.
        run_directory : str, optional
            Where events, checkpoints and weights go. None: a temporary folder, on a local master only; on a cluster a
            path or URL that the driver and every worker reach.

        Returns
        -------
        TrainingResult
            Prints as a small table.

        Raises
        ------
        UnsupportedError
            If data are of no known kind; the message lists the known ones.
        DataError
            If something cannot be trained on: one error that names column or file, and the fix. Nothing is left of it.
        """
        self._master()
        train, held_back = open_sources(self.spark, data, validation, self._plan, loader)
        return self._train(
            train,
            held_back,
            epochs=epochs,
            early_stopping=early_stopping,
            resume=resume,
            run_directory=run_directory,
        )

    def fit_labeled_point(
        self,
        rdd: RDD[Any],
        *,
        epochs: int = 1,
        validation: RDD[Any] | None = None,
        resume: bool = False,
        run_directory: str | None = None,
    ) -> TrainingResult:
        """Train on MLlib's labelled points, or (label, vector) pairs, whose labels are class indices.

        Parameters
        ----------
        rdd, validation : RDD of LabeledPoint
            What is trained on, and what is scored after each epoch.
        epochs, resume, run_directory
            As of `fit`.

        Raises
        ------
        DataError
            If an element is no such point, or a label no whole number.
        """
        return self._fit_points(rdd, validation, "class", epochs=epochs, resume=resume, run_directory=run_directory)

    def fit_continuous_labeled_point(
        self,
        rdd: RDD[Any],
        *,
        epochs: int = 1,
        validation: RDD[Any] | None = None,
        resume: bool = False,
        run_directory: str | None = None,
    ) -> TrainingResult:
        """Train on MLlib's labelled points, or (label, vector) pairs, whose labels are real targets.

        Parameters
        ----------
        rdd, validation, epochs, resume, run_directory
            As of `fit_labeled_point`.

        Raises
        ------
        ConfigurationError
            If the loss is one of classes.
        """
        if self.network.is_classifier:
            raise ConfigurationError(
                f"fit_continuous_labeled_point: real targets are of no use to {type(self.network.loss).__name__}: use "
                "fit_labeled_point for classes, or another loss"
            )
        return self._fit_points(rdd, validation, "value", epochs=epochs, resume=resume, run_directory=run_directory)

    def _fit_points(
        self, rdd: RDD[Any], validation: RDD[Any] | None, points: PointLabels, **how: Any
    ) -> TrainingResult:
        from pyspark import RDD

        self._master()
        for each in (rdd, validation):
            if each is not None and not isinstance(each, RDD):
                raise UnsupportedError(f"an RDD of LabeledPoint is needed, this is a {type(each).__name__}: use fit")
        train = open_source(self.spark, rdd, self._plan, points=points)
        other = None if validation is None else open_source(self.spark, validation, self._plan, points=points)
        return self._train(train, other, **how)

    def _master(self) -> TrainingMaster:
        if self.training_master is None:
            raise ConfigurationError(
                "fit needs a training master: SparkMultiLayer(spark, network, SharedTrainingMaster(...))"
            )
        return self.training_master

    def _train(self, train: Source, validation: Source | None, **how: Any) -> TrainingResult:
        self._result = self._master().fit(self.spark, self.network, train, validation=validation, **how)
        return self._result

    def evaluate(self, data: DataFrame, *, batch_size: int = 64) -> Evaluation:
        """Count how well classes are told apart (CrossEntropyLoss, NLLLoss, and BCE losses with one output).

        Parameters
        ----------
        data : DataFrame
            With the columns of features and label; each row counts once, whatever its weight.
        batch_size : int
            Rows that go through the network at a time.
        """
        if self.labels_mask_col is not None:
            raise ConfigurationError("labels_mask_col cannot act in evaluate, which counts one class a row")
        return evaluate_classes(self.network, self._table(data, label_col=self.label_col), batch_size)

    def predict(self, data: DataFrame, *, batch_size: int = 64) -> DataFrame:
        """Add `prediction` (class index as a double, or the value) and, for class losses, `probability`.

        Parameters
        ----------
        data : DataFrame
            With the columns of features; all its columns are kept.
        batch_size : int
            Rows that go through the network at a time.
        """
        return predict(self.network, self._table(data, label_col=None), batch_size)

    def _table(self, data: Any, *, label_col: ColumnsLike | None) -> Table:
        frame = _dataframe(data)
        return Table(
            frame,
            plan_columns(
                frame,
                features_col=portable_column(self.features_col),
                label_col=None if label_col is None else portable_column(label_col),
                features_mask_col=self.features_mask_col,
            ),
        )

    def _plan(self, frame: DataFrame, validation_col: str | None) -> ColumnPlan:
        return plan_columns(
            frame,
            features_col=portable_column(self.features_col),
            label_col=portable_column(self.label_col),
            features_mask_col=self.features_mask_col,
            labels_mask_col=self.labels_mask_col,
            weight_col=self.weight_col,
            validation_col=validation_col,
        )


def _dataframe(data: Any) -> DataFrame:
    from pyspark.sql import DataFrame

    if not isinstance(data, DataFrame):
        raise UnsupportedError(
            f"a Spark DataFrame is needed, this is a {type(data).__name__}: spark.createDataFrame(...)"
        )
    return data


#: The seed API's name of the same class.
SparkDl4jMultiLayer = SparkMultiLayer
