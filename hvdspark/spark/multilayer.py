"""SparkMultiLayer: a network with one input and one output, trained and used on Spark."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from hvdspark.data import ColumnPlan, ColumnsLike, PointLabels, Table, plan_columns
from hvdspark.errors import ConfigurationError, UnsupportedError
from hvdspark.masters import TrainingMaster
from hvdspark.network import Network
from hvdspark.spark.inference import predict
from hvdspark.spark.keyed import feed_forward_with_key
from hvdspark.spark.matrices import is_matrix, predict_matrix
from hvdspark.spark.one_output import OneOutput
from hvdspark.spark.sources import open_source, portable_column
from hvdspark.training import TrainingResult

if TYPE_CHECKING:
    from pyspark import RDD
    from pyspark.sql import DataFrame, SparkSession

__all__ = ["SparkDl4jMultiLayer", "SparkMultiLayer"]


@final
class SparkMultiLayer(OneOutput):
    """A network on Spark: fit, evaluate, score, predict.

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
        A column of numbers from 0 on, which each example's loss is multiplied with in training, validation and scores.
    default_evaluation_workers : int
        How many copies of the network a host holds at once while it is evaluated or scored by `calculate_score`; it may
        be set later. Tasks beyond it wait.
    device : str, optional
        Where the network is used: "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:0"; it may be set later.
        None: as the training master has it, else "auto".
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
        default_evaluation_workers: int = 4,
        device: str | None = None,
    ) -> None:
        if label_col is None:
            raise ConfigurationError("label_col: the name of a column is needed, not None; predict ignores it")
        self.features_col = features_col
        self.label_col = label_col
        self.features_mask_col = features_mask_col
        self.labels_mask_col = labels_mask_col
        self.weight_col = weight_col
        super().__init__(spark, network, training_master, default_evaluation_workers, device)

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

    def predict(self, data: Any, *, batch_size: int = 64) -> Any:
        """Say what the network says of features.

        Parameters
        ----------
        data : DataFrame, ndarray, torch.Tensor, or a vector or matrix of pyspark.ml or pyspark.mllib
            A DataFrame with the columns of features, which may be streaming; or examples that the driver holds:
            `[n, ...]`, or one vector.
        batch_size : int
            Rows that go through the network at a time.

        Returns
        -------
        DataFrame, ndarray, torch.Tensor, DenseVector or DenseMatrix
            Of a DataFrame: all its columns, `prediction` (class index as a double, or the value) and, for class losses,
            `probability`. Of what the driver holds: probabilities or values, of the same kind as the input.

        Raises
        ------
        UnsupportedError
            If data are of another kind.
        DataError
            If the DataFrame has a column of an added name, or features cannot be read.
        """
        if is_matrix(data):
            return predict_matrix(self.network, data, batch_size, device=self._where_on_driver())
        frame = _dataframe(data)
        table = Table(frame, self._plan(frame, None, labelled=False))
        return predict(self.network, table, batch_size, device=self._where())

    def feed_forward_with_key(self, pairs: RDD[Any], *, batch_size: int = 64) -> RDD[Any]:
        """Return (key, output) for each (key, features) or (key, (features, mask)) of an RDD.

        Parameters
        ----------
        pairs : RDD
            Features are those of one example, without an axis of examples: an array, a tensor or a vector. Masks go to
            the module, as the argument ``features_mask``.
        batch_size : int
            Examples that go through the network at a time, those of equal shape together.

        Returns
        -------
        RDD
            Of (key, ndarray), in the order of the pairs: probabilities or values.

        Raises
        ------
        UnsupportedError
            If this is no RDD.
        """
        return feed_forward_with_key(self.network, pairs, batch_size, device=self._where())

    def _plan(
        self, frame: DataFrame, validation_col: str | None, *, labelled: bool = True, weighted: bool = True
    ) -> ColumnPlan:
        return plan_columns(
            frame,
            features_col=portable_column(self.features_col),
            label_col=portable_column(self.label_col) if labelled else None,
            features_mask_col=self.features_mask_col,
            labels_mask_col=self.labels_mask_col if labelled else None,
            weight_col=self.weight_col if labelled and weighted else None,
            validation_col=validation_col,
        )


def _dataframe(data: Any) -> DataFrame:
    from pyspark.sql import DataFrame

    if not isinstance(data, DataFrame):
        raise UnsupportedError(
            f"predict takes a Spark DataFrame, an array, a tensor, or a vector or matrix of Spark's, and this is a "
            f"{type(data).__name__}: spark.createDataFrame(...), or feed_forward_with_key for pairs"
        )
    return data


#: The seed API's name of the same class.
SparkDl4jMultiLayer = SparkMultiLayer
