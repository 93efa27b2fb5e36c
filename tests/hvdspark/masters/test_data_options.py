"""How rows come to the ranks: what cannot act is refused by name, and all of it can be written down."""

import pytest

from hvdspark import ParameterAveragingTrainingMaster, SharedTrainingMaster
from hvdspark.data import DefaultRepartitioner, EqualRepartitioner, Repartition, RepartitionStrategy
from hvdspark.errors import ConfigurationError
from hvdspark.masters.layout import STORAGE_LEVELS

MASTERS = [SharedTrainingMaster, ParameterAveragingTrainingMaster]
DIRECT = {"batch_size_per_worker": 4, "rdd_training_approach": "direct"}


@pytest.mark.parametrize("master", MASTERS)
@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"launcher": "local"}, "launcher"),
        ({"launcher": "horovod_spark"}, "launcher"),
        ({"export_directory": "somewhere"}, "export_directory"),
        ({"drop_last": True}, "drop_last"),
        ({"storage_level": "MEMORY"}, "storage_level"),
        ({"repartitioner": EqualRepartitioner(), "repartition_strategy": "balanced"}, "repartitioner"),
        ({"repartition": "never", "repartition_strategy": "balanced"}, "repartition_strategy"),
        ({"repartition": "never", "repartitioner": EqualRepartitioner()}, "repartitioner"),
        ({"repartition": "sometimes"}, "repartition"),
        ({"rdd_training_approach": "stream"}, "rdd_training_approach"),
    ],
)
def test_what_cannot_act_is_refused(master, options, name):
    with pytest.raises(ConfigurationError, match=name):
        master(**{**DIRECT, **options})


@pytest.mark.parametrize("master", MASTERS)
def test_the_options_are_written_and_read(master):
    made = master(
        **DIRECT, storage_level="MEMORY_AND_DISK", repartitioner=DefaultRepartitioner(7), repartition="always"
    )
    assert made.repartition is Repartition.ALWAYS
    assert master.from_json(made.to_json()) == made
    assert master.from_yaml(made.to_yaml()) == made
    other = master(**DIRECT, repartition_strategy="spark_default")
    assert other.repartition_strategy is RepartitionStrategy.SPARK_DEFAULT
    assert master.from_yaml(other.to_yaml()) == other
    assert master(batch_size_per_worker=4).rdd_training_approach == "export"


def test_storage_levels_are_those_of_pyspark():
    from pyspark import StorageLevel

    names = {name for name in vars(StorageLevel) if isinstance(getattr(StorageLevel, name), StorageLevel)}
    assert set(STORAGE_LEVELS) == names - {"NONE"}
