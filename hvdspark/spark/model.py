"""What every front end on Spark is: a session, a network and a training master, and how it is fitted."""

from __future__ import annotations

import abc
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

from hvdspark.data import ColumnPlan, Loader, Source, use_driver_python
from hvdspark.errors import ConfigurationError
from hvdspark.masters import TrainingMaster, check_device, inherited
from hvdspark.network import Network
from hvdspark.spark.sources import open_sources
from hvdspark.stats import TrainingStats
from hvdspark.training import EarlyStopping, TrainingResult

if TYPE_CHECKING:
    from pyspark import RDD
    from pyspark.sql import DataFrame, SparkSession

TrainingData: TypeAlias = "DataFrame | RDD[Any] | str | os.PathLike[str] | Sequence[str | os.PathLike[str]]"
"""What `fit` takes, and all that looks at examples with labels."""

__all__ = ["SparkModel", "TrainingData"]


class SparkModel(abc.ABC):
    """A network on Spark.

    Parameters
    ----------
    spark
        Where it runs.
    network
        What is trained and used.
    training_master
        How it is trained; without one, `fit` is refused.
    device
        Where the network is used once it is trained. None: as the training master says, else "auto".
    """

    def __init__(
        self, spark: SparkSession, network: Network, training_master: TrainingMaster | None, device: str | None
    ) -> None:
        self.spark = spark
        self.network = network
        self.training_master = training_master
        self.device = device
        self._result: TrainingResult | None = None
        use_driver_python(spark)

    @abc.abstractmethod
    def _plan(
        self, frame: DataFrame, validation_col: str | None, *, labelled: bool = True, weighted: bool = True
    ) -> ColumnPlan:
        """Decide what the columns of a table become.

        Parameters
        ----------
        frame
            The table.
        validation_col
            A boolean column whose true rows are held back.
        labelled
            Whether labels, their masks and weights are wanted.
        weighted
            Whether weights are.
        """

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
    def training_master(self) -> TrainingMaster | None:
        """How it is trained; it may be set, and counts from the next fit on."""
        return self._training_master

    @training_master.setter
    def training_master(self, master: TrainingMaster | None) -> None:
        if master is not None and not isinstance(master, TrainingMaster):
            raise ConfigurationError(f"training_master: a TrainingMaster is needed, this is a {type(master).__name__}")
        self._training_master = master

    @property
    def device(self) -> str | None:
        """Where predictions, scores and evaluations are computed; it may be set.

        "auto": on a GPU where there is one, on the one that Spark gave the task or else on one that torch sees there;
        "cpu", "cuda" or "cuda:0". None: as the training master says, else "auto"; a GPU of the master's is one of the
        workers, and what the driver holds is predicted under "auto" then.
        """
        return self._device

    @device.setter
    def device(self, device: str | None) -> None:
        try:
            self._device = device if device is None else check_device(device)
        except (ValueError, AttributeError) as error:
            raise ConfigurationError(f"device: 'auto', 'cpu', 'cuda', 'cuda:0' or None, not {device!r}") from error

    def _where(self) -> str:
        if self.device is not None:
            return self.device
        return "auto" if self.training_master is None else self.training_master.device

    def _where_on_driver(self) -> str:
        return self._where() if self.device is not None else inherited(self._where())

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

    def _master(self) -> TrainingMaster:
        if self.training_master is None:
            raise ConfigurationError(
                f"fit needs a training master: {type(self).__name__}(spark, network, SharedTrainingMaster(...))"
            )
        return self.training_master

    def _train(self, train: Source, validation: Source | None, **how: Any) -> TrainingResult:
        self._result = self._master().fit(self.spark, self.network, train, validation=validation, **how)
        return self._result
