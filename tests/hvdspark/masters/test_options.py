"""What cannot act together is refused by the master, before anything is started."""

import pytest

from hvdspark import QuantileThresholdAlgorithm, SharedTrainingMaster
from hvdspark.errors import ConfigurationError


@pytest.mark.parametrize("exchange", ["regions", "fp16"])
def test_hosts_where_each_rank_sums_a_region(exchange):
    with pytest.raises(ConfigurationError, match="topology"):
        SharedTrainingMaster(batch_size_per_worker=4, exchange=exchange, topology="hosts")


def test_a_threshold_each_where_owners_have_one():
    with pytest.raises(ConfigurationError, match="threshold_scope"):
        SharedTrainingMaster(batch_size_per_worker=4, exchange="regions", threshold_scope="parameter")


def test_what_is_recommended_can_be_changed_and_written():
    master = SharedTrainingMaster.recommended(32, density=0.02, num_workers=4)
    assert (master.batch_size_per_worker, master.num_workers) == (32, 4)
    assert master.threshold_algorithm == QuantileThresholdAlgorithm(0.02)
    assert (master.local_steps, master.residual_lookahead, master.residual_post_processor) == (10, 0.3, None)
    assert SharedTrainingMaster.from_json(master.to_json()) == master
    changed = SharedTrainingMaster.recommended(32, local_steps=20, residual_lookahead=0.0)
    assert (changed.local_steps, changed.residual_lookahead) == (20, 0.0)
    with pytest.raises(ConfigurationError, match="residual_lookahead"):
        SharedTrainingMaster.recommended(32, local_steps=1)
