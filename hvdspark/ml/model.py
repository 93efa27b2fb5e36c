"""The model: a trained network that adds its predictions to DataFrames."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pyspark.ml import Model
from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.util import MLReadable, MLReader, MLWritable, MLWriter

from hvdspark.errors import UnsupportedError
from hvdspark.evaluation import Evaluation
from hvdspark.ml.columns import check_added, check_read, position
from hvdspark.ml.params import ModelParams
from hvdspark.ml.saving import ModelReader, ModelWriter
from hvdspark.network import Network
from hvdspark.spark import SparkMultiLayer
from hvdspark.spark.tables import case_matters
from hvdspark.training import TrainingResult

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructType
    from torch import nn

__all__ = ["NetworkModel", "first_shape"]


class NetworkModel(Model, ModelParams, MLWritable, MLReadable["NetworkModel"]):
    """A trained network as a stage of pyspark.ml; `NetworkEstimator.fit` returns it.

    `transform` keeps all rows and columns, and adds `predictionCol` (the class index as a double; the value, or an
    array of values, where the loss is not one of classes) and, for class losses, `probabilityCol` (a vector).

    Parameters
    ----------
    network : Network
        The trained network.
    num_features : int
        Numbers an example.
    num_outputs : int
        Numbers that the network gives for an example.
    architecture : callable, optional
        What makes the module, for saving: see `Network.save`.
    summary : TrainingResult, optional
        What the fit gave back.
    """

    device: Param[str] = Param(
        Params._dummy(),
        "device",
        "where transform computes: auto (a GPU where there is one), cpu, cuda or cuda:0; after a fit cpu where "
        "the training master has that, else auto.",
        typeConverter=TypeConverters.toString,
    )

    def __init__(
        self,
        network: Network,
        num_features: int,
        num_outputs: int,
        *,
        architecture: Callable[..., nn.Module] | None = None,
        summary: TrainingResult | None = None,
    ) -> None:
        super().__init__()
        self._setDefault(device="auto")
        self._network = network
        self._num_features = num_features
        self._num_outputs = num_outputs
        self._architecture = architecture
        self._summary = summary

    @property
    def network(self) -> Network:
        """The trained network."""
        return self._network

    @property
    def architecture(self) -> Callable[..., nn.Module] | None:
        """What makes the module, for saving."""
        return self._architecture

    @property
    def numFeatures(self) -> int:
        """Numbers an example."""
        return self._num_features

    @property
    def numOutputs(self) -> int:
        """Numbers that the network gives for an example."""
        return self._num_outputs

    @property
    def numClasses(self) -> int:
        """Classes that the network tells apart.

        Raises
        ------
        UnsupportedError
            If its loss is not one of classes.
        """
        if not self._network.is_classifier:
            raise UnsupportedError("numClasses: the network's loss is not one of classes; numOutputs counts its values")
        return self._num_outputs

    def getDevice(self) -> str:
        """Return where `transform` computes."""
        return self.getOrDefault(self.device)

    def setDevice(self, value: str) -> Self:
        """Set where `transform` computes."""
        return self._set(device=value)

    @property
    def hasSummary(self) -> bool:
        """Whether there is a summary: a model that was loaded has none."""
        return self._summary is not None

    @property
    def summary(self) -> TrainingResult:
        """What the fit gave back: loss by epoch, bytes, seconds.

        Raises
        ------
        UnsupportedError
            If the model was loaded: a summary is not saved.
        """
        if self._summary is None:
            raise UnsupportedError("this model was loaded, and the summary of a fit is not saved: see hasSummary")
        return self._summary

    def transformSchema(self, schema: StructType, *, caseSensitive: bool = False) -> StructType:
        """Return the schema that `transform` would give, and refuse what it cannot work on.

        Parameters
        ----------
        schema : StructType
            Of the DataFrame.
        caseSensitive : bool
            Whether names that differ in case are different columns (``spark.sql.caseSensitive``).

        Raises
        ------
        DataError
            If a column is missing, of the wrong type, or in the way of one that is added; it names column and fix.
        """
        check_read(schema, self._features(), case_sensitive=caseSensitive)
        return check_added(schema, self._network, self, case_sensitive=caseSensitive, num_outputs=self._num_outputs)

    def _transform(self, dataset: DataFrame) -> DataFrame:
        matters = case_matters(dataset)
        self.transformSchema(dataset.schema, caseSensitive=matters)
        features = self._features()
        names = dataset.columns
        # The layer adds `prediction` and `probability`: columns of these names are out of the way in the meantime.
        own = [f"hvdspark_kept_{i}" if _in_the_way(name) else name for i, name in enumerate(names)]
        if own != names:
            dataset = dataset.toDF(*own)
            moved = [own[position(names, name, case_sensitive=matters)] for name in _listed(features)]
            features = moved[0] if isinstance(features, str) else moved
        layer = SparkMultiLayer(dataset.sparkSession, self._network, features_col=features, device=self.getDevice())
        predicted: DataFrame = layer.predict(dataset)
        added = [self.getPredictionCol(), self.getProbabilityCol()][: len(predicted.columns) - len(own)]
        left_out = [f"hvdspark_left_out_{i}" for i, name in enumerate(added) if not name]
        renamed = predicted.toDF(*names, *(name or f"hvdspark_left_out_{i}" for i, name in enumerate(added)))
        return renamed.drop(*left_out)

    def evaluate(self, dataset: DataFrame) -> Evaluation:
        """Count how well classes are told apart, by `labelCol`.

        Parameters
        ----------
        dataset : DataFrame
            With the columns of features and label.
        """
        layer = SparkMultiLayer(
            dataset.sparkSession, self._network, features_col=self._features(), label_col=self.getLabelCol()
        )
        return layer.evaluate(dataset)

    def write(self) -> MLWriter:
        """Return what saves the model: Params and network; never a pickle."""
        return ModelWriter(self)

    @classmethod
    def read(cls) -> MLReader[NetworkModel]:
        """Return what loads a model; classes of the user's own are looked up in `Network.known`."""
        return ModelReader(cls)


def first_shape(layer: SparkMultiLayer, dataset: DataFrame) -> tuple[int, int]:
    """Find out from one row how many numbers an example has, and how many the network gives for it.

    Parameters
    ----------
    layer : SparkMultiLayer
        Of the trained network.
    dataset : DataFrame
        What it was trained on.
    """
    features = _listed(layer.features_col)
    only = dataset.select(*(dataset[f"`{name.replace('`', '``')}`"].alias(f"f{i}") for i, name in enumerate(features)))
    names = only.columns
    one = SparkMultiLayer(layer.spark, layer.network, features_col=names[0] if len(names) == 1 else names)
    row = one.predict(only.limit(1)).collect()[0]
    return sum(_width(row[name]) for name in names), _width(row[-1])


def _width(value: Any) -> int:
    return int(value.size) if hasattr(value, "size") else int(np.asarray(value).size)


def _listed(features: Any) -> list[str]:
    return [features] if isinstance(features, str) else list(features)


def _in_the_way(name: str) -> bool:
    return name.lower() in ("prediction", "probability")
