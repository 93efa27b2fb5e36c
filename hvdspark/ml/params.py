"""The Params of estimator and model: what pyspark.ml users set, tune and find in saved pipelines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from pyspark.ml.param import Param, Params, TypeConverters
from pyspark.ml.param.shared import (
    HasBatchSize,
    HasFeaturesCol,
    HasLabelCol,
    HasMaxIter,
    HasPredictionCol,
    HasProbabilityCol,
    HasSeed,
    HasStepSize,
    HasValidationIndicatorCol,
    HasWeightCol,
)

from hvdspark.errors import ConfigurationError

if TYPE_CHECKING:
    from hvdspark.data import ColumnsLike

__all__ = ["ModelParams", "TrainingParams"]


class ModelParams(HasFeaturesCol, HasLabelCol, HasPredictionCol, HasProbabilityCol):
    """Which columns are read, and what those that are added are called. Abstract; estimator and model have these."""

    featuresCols: Param[list[str]] = Param(
        Params._dummy(),
        "featuresCols",
        "columns of one number each, instead of featuresCol: no VectorAssembler is needed.",
        typeConverter=TypeConverters.toListString,
    )

    def getFeaturesCols(self) -> list[str]:
        """Return the columns of one number each."""
        return self.getOrDefault(self.featuresCols)

    def setFeaturesCol(self, value: str) -> Self:
        """Set the column of vectors, arrays or numbers."""
        return self._set(featuresCol=value)

    def setFeaturesCols(self, value: list[str]) -> Self:
        """Set the columns of one number each."""
        return self._set(featuresCols=value)

    def setLabelCol(self, value: str) -> Self:
        """Set the column of labels."""
        return self._set(labelCol=value)

    def setPredictionCol(self, value: str) -> Self:
        """Set the name of the column of predictions; "" leaves it out."""
        return self._set(predictionCol=value)

    def setProbabilityCol(self, value: str) -> Self:
        """Set the name of the column of probabilities; "" leaves it out."""
        return self._set(probabilityCol=value)

    def _features(self) -> ColumnsLike:
        if not self.isSet(self.featuresCols):
            return self.getFeaturesCol()
        if self.isSet(self.featuresCol):
            raise ConfigurationError(
                f"featuresCol ({self.getFeaturesCol()!r}) and featuresCols ({self.getFeaturesCols()}) are both set: "
                "only one can act; clear the other"
            )
        return self.getFeaturesCols()


class TrainingParams(
    ModelParams, HasWeightCol, HasValidationIndicatorCol, HasMaxIter, HasBatchSize, HasStepSize, HasSeed
):
    """How a fit goes. Abstract; the estimator has these.

    `batchSize`, `seed` and `stepSize` have no values of their own: what is not set is as the training master and the
    network have it.
    """

    runDirectory: Param[str] = Param(
        Params._dummy(),
        "runDirectory",
        "path or URL that the driver and every worker reach: each fit keeps its events and weights in a folder of its "
        "own there. Needed on a cluster.",
        typeConverter=TypeConverters.toString,
    )

    def __init__(self) -> None:
        super().__init__()
        # pyspark's default seed is the hash of a string, which each Python process salts anew, and is often negative
        self._setDefault(maxIter=1, seed=None)

    def getRunDirectory(self) -> str:
        """Return where each fit makes its folder."""
        return self.getOrDefault(self.runDirectory)

    def setBatchSize(self, value: int) -> Self:
        """Set the examples a rank and step; it takes the place of the master's `batch_size_per_worker`."""
        return self._set(batchSize=value)

    def setMaxIter(self, value: int) -> Self:
        """Set the number of passes over the data."""
        return self._set(maxIter=value)

    def setRunDirectory(self, value: str) -> Self:
        """Set where each fit makes its folder."""
        return self._set(runDirectory=value)

    def setSeed(self, value: int) -> Self:
        """Set what decides the order of examples; it takes the place of the master's `rng_seed`."""
        return self._set(seed=value)

    def setStepSize(self, value: float) -> Self:
        """Set the learning rate; it takes the place of the optimizer's ``lr``."""
        return self._set(stepSize=value)

    def setValidationIndicatorCol(self, value: str) -> Self:
        """Set the column of booleans whose true rows are held back, and scored after each epoch."""
        return self._set(validationIndicatorCol=value)

    def setWeightCol(self, value: str) -> Self:
        """Set the column that each example's loss is multiplied with."""
        return self._set(weightCol=value)

    def _given(self, param: Param[Any]) -> Any:
        """Return a Param's value, None where there is none."""
        return self.getOrDefault(param) if self.isDefined(param) else None
