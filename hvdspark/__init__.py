"""hvdspark trains any PyTorch module over a Spark cluster or bare-metal hosts joined by ordinary networks.

On Spark: `SparkMultiLayer` with a `SharedTrainingMaster`. On bare metal: `open_collective` and `SharedUpdates`.
The names below are loaded when they are first used: ``import hvdspark`` loads no torch, pyspark, Horovod, MPI or numba.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hvdspark.codec import AdaptiveThresholdAlgorithm as AdaptiveThresholdAlgorithm
    from hvdspark.codec import FixedThresholdAlgorithm as FixedThresholdAlgorithm
    from hvdspark.codec import NoOpResidualPostProcessor as NoOpResidualPostProcessor
    from hvdspark.codec import QuantileThresholdAlgorithm as QuantileThresholdAlgorithm
    from hvdspark.codec import ResidualClippingPostProcessor as ResidualClippingPostProcessor
    from hvdspark.codec import ResidualPostProcessor as ResidualPostProcessor
    from hvdspark.codec import TargetSparsityThresholdAlgorithm as TargetSparsityThresholdAlgorithm
    from hvdspark.codec import ThresholdAlgorithm as ThresholdAlgorithm
    from hvdspark.collectives import Collective as Collective
    from hvdspark.collectives import open_collective as open_collective
    from hvdspark.data import DataSet as DataSet
    from hvdspark.data import DefaultRepartitioner as DefaultRepartitioner
    from hvdspark.data import EqualRepartitioner as EqualRepartitioner
    from hvdspark.data import ImagePreProcessingScaler as ImagePreProcessingScaler
    from hvdspark.data import MultiDataSet as MultiDataSet
    from hvdspark.data import NoOpRepartitioner as NoOpRepartitioner
    from hvdspark.data import NormalizerMinMaxScaler as NormalizerMinMaxScaler
    from hvdspark.data import NormalizerStandardize as NormalizerStandardize
    from hvdspark.data import Repartition as Repartition
    from hvdspark.data import Repartitioner as Repartitioner
    from hvdspark.data import RepartitionStrategy as RepartitionStrategy
    from hvdspark.data import TensorColumn as TensorColumn
    from hvdspark.evaluation import ROC as ROC
    from hvdspark.evaluation import BinaryMeasure as BinaryMeasure
    from hvdspark.evaluation import CalibrationMeasure as CalibrationMeasure
    from hvdspark.evaluation import ClassMeasure as ClassMeasure
    from hvdspark.evaluation import Evaluation as Evaluation
    from hvdspark.evaluation import EvaluationBinary as EvaluationBinary
    from hvdspark.evaluation import EvaluationCalibration as EvaluationCalibration
    from hvdspark.evaluation import RegressionEvaluation as RegressionEvaluation
    from hvdspark.evaluation import RegressionMeasure as RegressionMeasure
    from hvdspark.evaluation import ROCBinary as ROCBinary
    from hvdspark.evaluation import RocBinaryMeasure as RocBinaryMeasure
    from hvdspark.evaluation import RocMeasure as RocMeasure
    from hvdspark.evaluation import ROCMultiClass as ROCMultiClass
    from hvdspark.evaluation import RocMultiClassMeasure as RocMultiClassMeasure
    from hvdspark.evaluation import TorchMeasure as TorchMeasure
    from hvdspark.masters import ParameterAveragingTrainingMaster as ParameterAveragingTrainingMaster
    from hvdspark.masters import SharedTrainingMaster as SharedTrainingMaster
    from hvdspark.network import JointLoss as JointLoss
    from hvdspark.network import Network as Network
    from hvdspark.spark import SparkComputationGraph as SparkComputationGraph
    from hvdspark.spark import SparkDl4jMultiLayer as SparkDl4jMultiLayer
    from hvdspark.spark import SparkMultiLayer as SparkMultiLayer
    from hvdspark.sync import Nesterov as Nesterov
    from hvdspark.sync import ParameterAveraging as ParameterAveraging
    from hvdspark.sync import SharedUpdates as SharedUpdates
    from hvdspark.training import Checkpoint as Checkpoint
    from hvdspark.training import EarlyStopping as EarlyStopping
    from hvdspark.training import Moment as Moment
    from hvdspark.training import TrainingHook as TrainingHook
    from hvdspark.training import TrainingListener as TrainingListener
    from hvdspark.training import TrainingResult as TrainingResult

_ROOMS = {
    "AdaptiveThresholdAlgorithm": "codec",
    "BinaryMeasure": "evaluation",
    "CalibrationMeasure": "evaluation",
    "Checkpoint": "training",
    "ClassMeasure": "evaluation",
    "Collective": "collectives",
    "DataSet": "data",
    "DefaultRepartitioner": "data",
    "EarlyStopping": "training",
    "EqualRepartitioner": "data",
    "Evaluation": "evaluation",
    "EvaluationBinary": "evaluation",
    "EvaluationCalibration": "evaluation",
    "FixedThresholdAlgorithm": "codec",
    "ImagePreProcessingScaler": "data",
    "JointLoss": "network",
    "Moment": "training",
    "MultiDataSet": "data",
    "Nesterov": "sync",
    "Network": "network",
    "NoOpRepartitioner": "data",
    "NoOpResidualPostProcessor": "codec",
    "NormalizerMinMaxScaler": "data",
    "NormalizerStandardize": "data",
    "ParameterAveraging": "sync",
    "ParameterAveragingTrainingMaster": "masters",
    "QuantileThresholdAlgorithm": "codec",
    "ROC": "evaluation",
    "ROCBinary": "evaluation",
    "ROCMultiClass": "evaluation",
    "RegressionEvaluation": "evaluation",
    "RegressionMeasure": "evaluation",
    "Repartition": "data",
    "RepartitionStrategy": "data",
    "Repartitioner": "data",
    "ResidualClippingPostProcessor": "codec",
    "ResidualPostProcessor": "codec",
    "RocBinaryMeasure": "evaluation",
    "RocMeasure": "evaluation",
    "RocMultiClassMeasure": "evaluation",
    "SharedTrainingMaster": "masters",
    "SharedUpdates": "sync",
    "SparkComputationGraph": "spark",
    "SparkDl4jMultiLayer": "spark",
    "SparkMultiLayer": "spark",
    "TargetSparsityThresholdAlgorithm": "codec",
    "TensorColumn": "data",
    "ThresholdAlgorithm": "codec",
    "TorchMeasure": "evaluation",
    "TrainingHook": "training",
    "TrainingListener": "training",
    "TrainingResult": "training",
    "open_collective": "collectives",
}

__all__ = [  # noqa: PLE0604 (a sorted list of strings, made from the table above)
    *sorted(_ROOMS)
]


def __getattr__(name: str) -> Any:
    if name not in _ROOMS:
        raise AttributeError(f"module 'hvdspark' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"hvdspark.{_ROOMS[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
