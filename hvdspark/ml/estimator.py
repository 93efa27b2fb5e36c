"""The estimator: a network that is trained when a pipeline is fitted."""

from __future__ import annotations

import copy
import functools
import inspect
import uuid
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from pyspark import keyword_only
from pyspark.ml import Estimator
from pyspark.ml.util import MLReadable, MLReader, MLWritable, MLWriter

from hvdspark import storage
from hvdspark.errors import ConfigurationError
from hvdspark.masters import TrainingMaster, inherited
from hvdspark.ml.columns import check_added, check_read, check_trained_on
from hvdspark.ml.model import NetworkModel, first_shape
from hvdspark.ml.params import TrainingParams
from hvdspark.ml.saving import EstimatorReader, EstimatorWriter
from hvdspark.network import Network
from hvdspark.network.targets import name_of
from hvdspark.spark import SparkMultiLayer
from hvdspark.spark.tables import case_matters

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.types import StructType
    from torch import nn

__all__ = ["NetworkEstimator"]


class NetworkEstimator(Estimator[NetworkModel], TrainingParams, MLWritable, MLReadable["NetworkEstimator"]):
    """Trains a network as a stage of pyspark.ml: in a Pipeline, a CrossValidator, a TrainValidationSplit.

    Each fit trains a copy: the estimator's network keeps the weights that it was given, so the fits of a search all
    start from them, and each can be repeated under a seed.

    Parameters
    ----------
    network : Network
        What is trained.
    training_master : TrainingMaster
        How it is trained.
    architecture : callable, optional
        What makes the module, for saving: see `Network.save`.
    featuresCol : str
        Column of vectors, arrays or numbers.
    featuresCols : list of str, optional
        Columns of one number each, instead.
    labelCol : str
        Column of labels.
    predictionCol, probabilityCol : str
        What the model's columns are called; "" leaves one out. Networks without a class loss have no probabilities.
    weightCol : str, optional
        Column that each example's loss is multiplied with.
    validationIndicatorCol : str, optional
        Column of booleans: true rows are held back, and scored after each epoch.
    maxIter : int
        Passes over the data.
    batchSize : int, optional
        Examples a rank and step, in place of the master's `batch_size_per_worker`.
    stepSize : float, optional
        Learning rate, in place of the ``lr`` of the network's optimizer.
    seed : int, optional
        From 0; decides the order of examples, in place of the master's `rng_seed`.
    runDirectory : str, optional
        Path or URL under which each fit makes a folder for its events and weights; needed on a cluster.
    """

    @keyword_only
    def __init__(
        self,
        *,
        network: Network,
        training_master: TrainingMaster,
        architecture: Callable[..., nn.Module] | None = None,
        featuresCol: str | None = None,
        featuresCols: list[str] | None = None,
        labelCol: str | None = None,
        predictionCol: str | None = None,
        probabilityCol: str | None = None,
        weightCol: str | None = None,
        validationIndicatorCol: str | None = None,
        maxIter: int | None = None,
        batchSize: int | None = None,
        stepSize: float | None = None,
        seed: int | None = None,
        runDirectory: str | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(network, Network):
            raise ConfigurationError(f"network: a Network is needed, this is a {type(network).__name__}")
        if not isinstance(training_master, TrainingMaster):
            raise ConfigurationError(
                f"training_master: a TrainingMaster is needed, this is a {type(training_master).__name__}"
            )
        self._network = network
        self._training_master = training_master
        self._architecture = architecture
        given = self._input_kwargs  # type: ignore[attr-defined]  # left there by keyword_only
        self._set_given({name: value for name, value in given.items() if self.hasParam(name)})

    @keyword_only
    def setParams(
        self,
        *,
        featuresCol: str | None = None,
        featuresCols: list[str] | None = None,
        labelCol: str | None = None,
        predictionCol: str | None = None,
        probabilityCol: str | None = None,
        weightCol: str | None = None,
        validationIndicatorCol: str | None = None,
        maxIter: int | None = None,
        batchSize: int | None = None,
        stepSize: float | None = None,
        seed: int | None = None,
        runDirectory: str | None = None,
    ) -> Self:
        """Set several Params at once; those that are None stay as they are."""
        return self._set_given(self._input_kwargs)  # type: ignore[attr-defined]

    def _set_given(self, values: dict[str, Any]) -> Self:
        return self._set(**{name: value for name, value in values.items() if value is not None})

    @property
    def network(self) -> Network:
        """What each fit trains a copy of."""
        return self._network

    @property
    def training_master(self) -> TrainingMaster:
        """How it is trained; Params that are set take the place of its options."""
        return self._training_master

    @property
    def architecture(self) -> Callable[..., nn.Module] | None:
        """What makes the module, for saving."""
        return self._architecture

    def transformSchema(self, schema: StructType, *, caseSensitive: bool = False) -> StructType:
        """Return the schema that the model's `transform` would give, and refuse what cannot be trained on.

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
        check_trained_on(
            schema,
            label=self.getLabelCol(),
            weight=self._given(self.weightCol),
            validation=self._given(self.validationIndicatorCol),
            case_sensitive=caseSensitive,
        )
        return check_added(schema, self._network, self, case_sensitive=caseSensitive)

    def _fit(self, dataset: DataFrame) -> NetworkModel:
        network, master = self._tuned_network(), self._tuned_master()
        self.transformSchema(dataset.schema, caseSensitive=case_matters(dataset))
        layer = SparkMultiLayer(
            dataset.sparkSession,
            network,
            master,
            features_col=self._features(),
            label_col=self.getLabelCol(),
            weight_col=self._given(self.weightCol),
        )
        base = self._given(self.runDirectory)
        result = layer.fit(
            dataset,
            epochs=self.getMaxIter(),
            validation=self._given(self.validationIndicatorCol),
            # each of the fits of a search has a folder of its own, also where they run at the same time
            run_directory=None if base is None else storage.join(base, f"{self.uid}-{uuid.uuid4().hex[:12]}"),
        )
        num_features, num_outputs = first_shape(layer, dataset)
        model = NetworkModel(network, num_features, num_outputs, architecture=self._architecture, summary=result)
        model.setDevice(inherited(master.device))
        model._resetUid(self.uid)  # the convention of pyspark.ml, by which a search finds its Params in a model
        return self._copyValues(model)

    def _tuned_master(self) -> TrainingMaster:
        seed, changes = self._given(self.seed), {}
        if seed is not None:
            if not 0 <= seed < 2**63:
                raise ConfigurationError(f"seed: a whole number from 0 to 2**63 - 1 is needed, not {seed}")
            changes["rng_seed"] = seed
        if self.isDefined(self.batchSize):
            if self.getBatchSize() < 1:
                raise ConfigurationError(f"batchSize: at least 1 is needed, not {self.getBatchSize()}")
            changes["batch_size_per_worker"] = self.getBatchSize()
        return self._training_master.replaced(**changes) if changes else self._training_master

    def _tuned_network(self) -> Network:
        if self.getMaxIter() < 1:
            raise ConfigurationError(f"maxIter: at least 1 is needed, not {self.getMaxIter()}")
        if self.isSet(self.probabilityCol) and self.getProbabilityCol() and not self._network.is_classifier:
            raise ConfigurationError(
                f"probabilityCol={self.getProbabilityCol()!r} cannot act: {name_of(self._network.loss)} is no loss of "
                "classes, so there are no probabilities; leave it out"
            )
        network = copy.deepcopy(self._network)
        if self.isDefined(self.stepSize):
            if not 0 <= self.getStepSize() < float("inf"):
                raise ConfigurationError(f"stepSize: a finite number >= 0 is needed, not {self.getStepSize()}")
            if not _takes_lr(network.optimizer):
                raise ConfigurationError(
                    f"stepSize={self.getStepSize()} cannot act: the network's optimizer takes no argument lr; use "
                    "functools.partial(torch.optim.SGD, lr=...) or a function (parameters, lr=...)"
                )
            optimizer: Callable[..., Any] = network.optimizer
            network.optimizer = functools.partial(optimizer, lr=self.getStepSize())
        return network

    def write(self) -> MLWriter:
        """Return what saves the estimator: Params, network and training master; never a pickle."""
        return EstimatorWriter(self)

    @classmethod
    def read(cls) -> MLReader[NetworkEstimator]:
        """Return what loads an estimator; classes of the user's own are looked up in `Network.known`."""
        return EstimatorReader(cls)


def _takes_lr(optimizer: Callable[..., Any]) -> bool:
    try:
        return "lr" in inspect.signature(optimizer).parameters
    except (TypeError, ValueError):  # written in C: nobody can tell
        return False
