"""Estimators and models as folders: ``metadata/`` as pyspark.ml writes it, ``network/`` as `Network.save` does.

Spark writes and reads the metadata, `hvdspark.storage` all else: a path must mean the same to both.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from pyspark.ml.param import Params
from pyspark.ml.util import DefaultParamsReader, DefaultParamsWriter, MLReader, MLWriter
from pyspark.sql import is_remote

from hvdspark import storage
from hvdspark.errors import ConfigurationError, HvdsparkError, ModelError, StorageError
from hvdspark.masters import ParameterAveragingTrainingMaster, SharedTrainingMaster, TrainingMaster
from hvdspark.network import Network
from hvdspark.network.recipe import Indescribable, describe, follow

if TYPE_CHECKING:
    from hvdspark.ml.estimator import NetworkEstimator
    from hvdspark.ml.model import NetworkModel

__all__ = ["EstimatorReader", "EstimatorWriter", "ModelReader", "ModelWriter"]

_MASTERS: dict[str, type[TrainingMaster]] = {
    each.__name__: each for each in (ParameterAveragingTrainingMaster, SharedTrainingMaster)
}
_Stage = TypeVar("_Stage", bound=Params)
_NEEDED_TO_PREDICT = ("module", "loss", "output")


class _FolderWriter(MLWriter):
    """What both writers do."""

    def _handleOverwrite(self, path: str) -> None:
        if is_remote():  # pyspark's own asks the JVM, which a Spark Connect session does not have
            storage.remove_tree(path)
        else:
            super()._handleOverwrite(path)


class EstimatorWriter(_FolderWriter):
    """Saves an estimator; refuses by name what cannot be written down."""

    def __init__(self, estimator: NetworkEstimator) -> None:
        super().__init__()
        self._estimator = estimator

    def saveImpl(self, path: str) -> None:
        """Write the folder; called by `save`."""
        estimator = self._estimator
        master = estimator.training_master
        if type(master) not in _MASTERS.values():
            raise ConfigurationError(
                f"training_master: a {type(master).__name__} cannot be saved, only {' and '.join(sorted(_MASTERS))}"
            )
        facts = {"master": {"type": type(master).__name__, "options": json.loads(master.to_json())}}
        parts = (*_NEEDED_TO_PREDICT, "optimizer", "lr_scheduler")
        _save(self, estimator, estimator.network, estimator.architecture, path, facts, parts)


class ModelWriter(_FolderWriter):
    """Saves a model; refuses by name what cannot be written down."""

    def __init__(self, model: NetworkModel) -> None:
        super().__init__()
        self._model = model

    def saveImpl(self, path: str) -> None:
        """Write the folder; called by `save`."""
        model = self._model
        facts = {"numFeatures": model.numFeatures, "numOutputs": model.numOutputs}
        _save(self, model, model.network, model.architecture, path, facts, _NEEDED_TO_PREDICT)


class EstimatorReader(MLReader["NetworkEstimator"]):
    """Loads an estimator."""

    def __init__(self, cls: type[NetworkEstimator]) -> None:
        super().__init__()
        self._cls = cls

    def load(self, path: str) -> NetworkEstimator:
        """Make the estimator again that was saved."""
        path = _as_spark_finds_it(self.sparkSession, path)
        metadata, facts = _read(self, path, self._cls)
        with _damage_named(path):
            made = _MASTERS[facts["master"]["type"]].from_json(json.dumps(facts["master"]["options"]))
            estimator = self._cls(network=_network(path), training_master=made, architecture=_architecture(facts))
            return _with_params(estimator, metadata)


class ModelReader(MLReader["NetworkModel"]):
    """Loads a model."""

    def __init__(self, cls: type[NetworkModel]) -> None:
        super().__init__()
        self._cls = cls

    def load(self, path: str) -> NetworkModel:
        """Make the model again that was saved."""
        path = _as_spark_finds_it(self.sparkSession, path)
        metadata, facts = _read(self, path, self._cls)
        with _damage_named(path):
            widths = int(facts["numFeatures"]), int(facts["numOutputs"])
            return _with_params(self._cls(_network(path), *widths, architecture=_architecture(facts)), metadata)


def _as_spark_finds_it(spark: Any, path: str) -> str:
    """Return the URL of a path, as Spark understands it: in the JVM's folder, on the default file system."""
    if is_remote():  # a Spark Connect session has no JVM to ask
        return path
    hadoop = spark._jvm.org.apache.hadoop.fs.Path(path)
    found = str(hadoop.getFileSystem(spark._jsc.hadoopConfiguration()).makeQualified(hadoop).toString())
    return found.replace("file:/", "file:///", 1) if found.startswith("file:/") and found[6] != "/" else found


def _save(
    writer: MLWriter,
    stage: NetworkEstimator | NetworkModel,
    network: Network,
    architecture: Any,
    path: str,
    facts: dict[str, Any],
    needed: tuple[str, ...],
) -> None:
    """Write a folder whose metadata come last: without them there is nothing to load."""
    path = _as_spark_finds_it(writer.sparkSession, path)
    if storage.exists(path):
        raise StorageError(f"{path} is there already: write().overwrite().save(...) replaces it")
    if architecture is not None:
        try:
            facts["architecture"] = describe(architecture)
        except Indescribable as reason:
            raise ModelError(f"architecture: {reason}: give a class or function of a module's top level") from None
    folder = storage.join(path, "network")
    try:
        network.save(folder, architecture=architecture)
        _refuse_what_was_not_kept(folder, needed)
    except BaseException:
        storage.remove_tree(path)
        raise
    DefaultParamsWriter.saveMetadata(stage, path, writer.sparkSession, extraMetadata={"hvdspark": facts})
    if not storage.exists(storage.join(path, "metadata")):
        storage.remove_tree(path)
        raise StorageError(
            f"Spark wrote {path}/metadata to its default file system, which is not where hvdspark finds {path}: give a "
            "whole URL (file:///..., hdfs://...)"
        )


def _refuse_what_was_not_kept(folder: str, needed: tuple[str, ...]) -> None:
    recipes = storage.read_json(storage.join(folder, "network.json"))["recipes"]
    for part in needed:
        recipe = recipes[part]
        if isinstance(recipe, dict) and "not_kept" in recipe:
            fix = "give architecture=functools.partial(Net, ...)" if part == "module" else "use one with a name"
            raise ModelError(f"the network's {part} cannot be saved ({recipe['not_kept']}): {fix}")


def _read(reader: MLReader[Any], path: str, cls: type[Params]) -> tuple[dict[str, Any], dict[str, Any]]:
    if not storage.exists(storage.join(path, "metadata")):
        raise StorageError(f"there is no {cls.__name__} at {path}: it has no folder metadata")
    with _damage_named(path):
        metadata = DefaultParamsReader.loadMetadata(path, reader.sparkSession)
        name = f"{cls.__module__}.{cls.__name__}"
        if metadata["class"] != name:
            raise StorageError(f"{path} holds a {metadata['class']}, not a {name}: load it by its own class")
        return metadata, metadata["hvdspark"]


@contextlib.contextmanager
def _damage_named(path: str) -> Iterator[None]:
    try:
        yield
    except HvdsparkError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, AssertionError) as error:
        raise StorageError(f"{path} is damaged: {type(error).__name__}: {error}") from error


def _network(path: str) -> Network:
    return Network.read(storage.join(path, "network"))


def _architecture(facts: dict[str, Any]) -> Any:
    return follow(facts["architecture"], Network.known) if "architecture" in facts else None


def _with_params(stage: _Stage, metadata: dict[str, Any]) -> _Stage:
    stage._resetUid(metadata["uid"])
    DefaultParamsReader.getAndSetParams(stage, metadata)  # type: ignore[type-var]  # it says readable, and needs Params
    return stage
