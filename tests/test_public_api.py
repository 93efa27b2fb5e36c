"""What is public is public by decision: this list and the packages' `__all__` are the same."""

import importlib
import pkgutil

import pytest

import hvdspark
import hvdspark_kernels
import hvdspark_launch

PUBLIC = [
    "AdaptiveThresholdAlgorithm",
    "BinaryMeasure",
    "CalibrationMeasure",
    "Checkpoint",
    "ClassMeasure",
    "Collective",
    "DataSet",
    "DefaultRepartitioner",
    "EarlyStopping",
    "EqualRepartitioner",
    "Evaluation",
    "EvaluationBinary",
    "EvaluationCalibration",
    "FixedThresholdAlgorithm",
    "ImagePreProcessingScaler",
    "JointLoss",
    "Moment",
    "MultiDataSet",
    "Nesterov",
    "Network",
    "NoOpRepartitioner",
    "NoOpResidualPostProcessor",
    "NormalizerMinMaxScaler",
    "NormalizerStandardize",
    "ParameterAveraging",
    "ParameterAveragingTrainingMaster",
    "QuantileThresholdAlgorithm",
    "ROC",
    "ROCBinary",
    "ROCMultiClass",
    "RegressionEvaluation",
    "RegressionMeasure",
    "Repartition",
    "RepartitionStrategy",
    "Repartitioner",
    "ResidualClippingPostProcessor",
    "ResidualPostProcessor",
    "RocBinaryMeasure",
    "RocMeasure",
    "RocMultiClassMeasure",
    "SharedTrainingMaster",
    "SharedUpdates",
    "SparkComputationGraph",
    "SparkDl4jMultiLayer",
    "SparkMultiLayer",
    "TargetSparsityThresholdAlgorithm",
    "TensorColumn",
    "ThresholdAlgorithm",
    "TorchMeasure",
    "TrainingHook",
    "TrainingListener",
    "TrainingResult",
    "open_collective",
]


def test_top_level_names_are_these():
    assert list(hvdspark.__all__) == PUBLIC
    for name in PUBLIC:
        assert getattr(hvdspark, name) is not None
    assert set(PUBLIC) <= set(dir(hvdspark))


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(AttributeError, match="SharedUpdates"):
        _ = hvdspark.SharedUpdate


def modules():
    for package in (hvdspark, hvdspark_kernels, hvdspark_launch):
        yield package.__name__
        yield from (m.name for m in pkgutil.walk_packages(package.__path__, package.__name__ + "."))


@pytest.mark.parametrize("name", sorted(modules()))
def test_every_module_says_what_is_public_and_what_it_is(name):
    module = importlib.import_module(name)
    assert module.__doc__, f"{name} has no docstring"
    public = getattr(module, "__all__", None)
    assert public is not None, f"{name} has no __all__"
    assert len(public) == len(set(public))  # their order is a matter of style: RUF022
    for each in public:
        assert hasattr(module, each)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented(name):
    thing = getattr(hvdspark, name)
    assert thing.__doc__
    members = [m for m in vars(thing).items() if not m[0].startswith("_")] if isinstance(thing, type) else []
    for member, value in members:
        if callable(value) or isinstance(value, (property, classmethod, staticmethod)):
            assert value.__doc__, f"{name}.{member} has no docstring"
