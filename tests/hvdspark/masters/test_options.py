"""What cannot act together is refused by the master, before anything is started."""

import pytest

from hvdspark import SharedTrainingMaster
from hvdspark.errors import ConfigurationError


@pytest.mark.parametrize("exchange", ["regions", "fp16"])
def test_hosts_where_each_rank_sums_a_region(exchange):
    with pytest.raises(ConfigurationError, match="topology"):
        SharedTrainingMaster(batch_size_per_worker=4, exchange=exchange, topology="hosts")


def test_a_threshold_each_where_owners_have_one():
    with pytest.raises(ConfigurationError, match="threshold_scope"):
        SharedTrainingMaster(batch_size_per_worker=4, exchange="regions", threshold_scope="parameter")
