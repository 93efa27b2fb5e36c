"""Training over PyTorch's own Gloo instead of Horovod: the same weights, from every launcher."""

import os
import threading

import pytest
import torch

from contracts.table import make_master, make_network
from contracts.tensors import bits
from hvdspark import Network, ParameterAveragingTrainingMaster, SharedTrainingMaster, SparkMultiLayer
from hvdspark.errors import ConfigurationError, RankFailed

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(300)]


def trained(spark, table, network=None, **options):
    """Train in one order of the rows, and return the bits of the weights."""
    model = SparkMultiLayer(spark, network or make_network(), make_master(**options))
    result = model.fit(table.coalesce(1).sortWithinPartitions("id"), epochs=2)
    assert result.history[-1]["score"] < result.history[0]["score"]
    return b"".join(bits(parameter) for parameter in result.network.module.parameters())


@pytest.mark.parametrize(
    "options",
    [{}, {"exchange": "dense"}, {"exchange": "regions"}, {"topology": "hosts"}, {"overlap": "next_step"}],
    ids=lambda options: "-".join(options.values()) or "defaults",
)
def test_the_weights_are_those_of_horovod(spark, table, options):
    """Two ranks: a sum of two numbers is the same in every order."""
    assert trained(spark, table, transport="torch", **options) == trained(spark, table, **options)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["horovod_spark", "local"])
def test_other_launchers(spark, table, launcher):
    expected = trained(spark, table, transport="torch")
    assert trained(spark, table, transport="torch", launcher=launcher) == expected


def test_transports_take_turns_in_the_same_workers(spark, table):
    found = [trained(spark, table, transport=name) for name in ("torch", "horovod", "torch", "torch")]
    assert found == found[:1] * 4


def test_runs_at_the_same_time_do_not_meet(spark, table):
    """Each has a port of its own; here, one rank each, for the session has two slots."""
    found = {}
    networks = {seed: make_network() for seed in (5, 6)}  # here: threads would take turns at torch's generator

    def run(seed):
        found[seed] = trained(spark, table, networks[seed], transport="torch", num_workers=1, rng_seed=seed)

    threads = [threading.Thread(target=run, args=(seed,)) for seed in (5, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert found == {seed: trained(spark, table, num_workers=1, rng_seed=seed) for seed in (5, 6)}


class FailsOnOneRank(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(6, 3)
        self.steps = 0

    def forward(self, x):
        self.steps += 1
        if self.steps == 3 and os.environ["RANK"] == "1":
            raise KeyError("the user's own mistake")
        return self.inner(x)


def test_a_rank_that_fails_is_named_and_the_session_goes_on(spark, table):
    network = make_network()
    network = Network(FailsOnOneRank(), network.loss, network.optimizer)
    with pytest.raises(RankFailed, match=r"rank 1 on .* failed: .*the user's own mistake"):
        SparkMultiLayer(spark, network, make_master(transport="torch")).fit(table)
    assert trained(spark, table, transport="torch")


def test_a_transport_that_there_is_not():
    for master in (SharedTrainingMaster, ParameterAveragingTrainingMaster):
        with pytest.raises(ConfigurationError, match="'horovod' or 'torch'"):
            master(batch_size_per_worker=16, transport="nccl")
