"""Both masters with local steps on real Spark: averaging, outer momentum, what is left over, and their options."""

import numpy as np
import pytest
import torch

from contracts.table import fit, make_master, make_network
from hvdspark import Nesterov, ParameterAveragingTrainingMaster, SharedTrainingMaster, SparkMultiLayer
from hvdspark.errors import ConfigurationError

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(300)]


def averaging(**options):
    return ParameterAveragingTrainingMaster(
        **{"batch_size_per_worker": 16, "num_workers": 2, "rng_seed": 5, "averaging_frequency": 5, **options}
    )


def trained(spark, table, master, epochs=1):
    model = SparkMultiLayer(spark, make_network(), master)
    result = model.fit(table.coalesce(1).sortWithinPartitions("id"), epochs=epochs)
    return torch.cat([p.reshape(-1) for p in model.network.module.parameters()]).detach().numpy(), result


def test_averaging_learns_and_skips_nothing(spark, table):
    """13 steps an epoch in periods of 5: ranks meet after 5, 10 and, at the end of the epoch, 13."""
    result = fit(spark, table, master=averaging(), epochs=4)
    scores = [epoch["score"] for epoch in result.history]
    assert scores[-1] < 0.6 * scores[0]
    ranks = result.stats.ranks
    assert sum(rank.examples for rank in ranks) == 4 * 400
    assert {rank.steps for rank in ranks} == {4 * 13}
    assert {rank.exchanges for rank in ranks} == {4 * 3}
    # Momentum is averaged too: twice the bytes of the weights. (So small a model pays as much again for announcements.)
    assert 2 * 12 / 52 < result.bytes_sent / result.dense_bytes < 0.9


def test_averaging_at_every_step_equals_one_rank_with_the_whole_batch(spark, table):
    alone, _ = trained(spark, table, make_master(num_workers=1, batch_size_per_worker=32))
    found, _ = trained(spark, table, averaging(averaging_frequency=1))
    np.testing.assert_allclose(found, alone, rtol=0, atol=1e-6)


def test_options_act(spark, table):
    plain, result = trained(spark, table, averaging())
    for options in ({"save_updater": False}, {"outer_optimizer": Nesterov(0.7, 0.5)}, {"averaging_frequency": 6}):
        found, other = trained(spark, table, averaging(**options))
        assert not np.array_equal(found, plain), options
        if options == {"save_updater": False}:
            assert other.bytes_sent < 0.6 * result.bytes_sent


def test_coded_local_steps_learn(spark, table):
    master = make_master(local_steps=((0, 1), (8, 3)), outer_optimizer=Nesterov(0.9, 0.1), magnitude="mean")
    result = fit(spark, table, master=master, epochs=4)
    assert result.history[-1]["score"] < 0.7 * result.history[0]["score"]
    assert {rank.exchanges for rank in result.stats.ranks} == {8 + 2 + 3 * 5}


def test_ranks_of_one_host_encode_once_for_it(spark, table):
    """Asked for by name; by itself it is done only where there are several hosts."""
    result = fit(spark, table, master=make_master(topology="hosts"), epochs=3)
    assert result.history[-1]["score"] < 0.7 * result.history[0]["score"]
    first, second = result.stats.ranks
    assert first.density == second.density > 0
    assert "sum inside" in first.seconds


def test_an_exchange_under_way_while_the_next_step_computes(spark, table):
    result = fit(spark, table, master=make_master(overlap="next_step"), epochs=3)
    assert result.history[-1]["score"] < 0.7 * result.history[0]["score"]
    assert {rank.exchanges for rank in result.stats.ranks} == {3 * 13}, "the last of an epoch is not lost"


def test_masters_round_trip():
    for master in (
        averaging(
            aggregation_depth=1,
            averaging_frequency=((0, 1), (9, 4)),
            outer_optimizer=Nesterov(0.7, 0.5),
            save_updater=False,
        ),
        make_master(local_steps=4, outer_optimizer=Nesterov(0.7, 0.5), momentum_masking=False),
        make_master(local_steps=((0, 1), (9, 4)), topology="flat"),
    ):
        assert type(master).from_json(master.to_json()) == master
        assert type(master).from_yaml(master.to_yaml()) == master


@pytest.mark.parametrize(
    ("master", "options", "said"),
    [
        (averaging, {"averaging_frequency": 0}, "averaging_frequency"),
        (averaging, {"averaging_frequency": ((1, 5),)}, "averaging_frequency"),
        (averaging, {"threshold_algorithm": None}, "no option 'threshold_algorithm'"),
        (averaging, {"outer_optimizer": {"lr": 1.0, "momentum": 2.0}}, "momentum"),
        (make_master, {"local_steps": 0}, "local_steps"),
        (make_master, {"local_steps": 2, "encode": "gradients"}, "encode"),
        (make_master, {"momentum_masking": True, "encode": "gradients"}, "momentum_masking"),
        (make_master, {"momentum_masking": True, "exchange": "dense"}, "momentum_masking"),
        (make_master, {"momentum_masking": "yes"}, "momentum_masking"),
        (make_master, {"topology": "ring"}, "topology"),
        (make_master, {"overlap": "next_step", "local_steps": 2}, "overlap"),
        (averaging, {"aggregation_depth": 0}, "aggregation_depth"),
    ],
)
def test_what_cannot_act_is_refused_by_name(master, options, said):
    with pytest.raises(ConfigurationError, match=said):
        master(**options)


def test_defaults_are_deeplearning4js():
    master = ParameterAveragingTrainingMaster()
    assert (master.batch_size_per_worker, master.averaging_frequency, master.save_updater) == (16, 5, True)
    assert master.worker_prefetch_num_batches == 0
    assert SharedTrainingMaster(batch_size_per_worker=1).momentum_masking == "auto"


@pytest.mark.parametrize("make", [make_master, averaging])
def test_shuffle_and_drop_last_act_on_both_masters(spark, table, make):
    """13 steps of 32 rows and one of 16 in 400 rows; unshuffled, the seed decides nothing here."""
    one, result = trained(spark, table, make(shuffle=False, drop_last=True))
    other, _ = trained(spark, table, make(shuffle=False, drop_last=True, rng_seed=6))
    assert one.tobytes() == other.tobytes()
    assert result.history[0]["dropped"] == 400 - 12 * 32
    assert sum(rank.examples for rank in result.stats.ranks) == 12 * 32
    assert "16 (drop_last=True)" in str(result)
    for option in ("shuffle", "drop_last"):
        master = make(**{option: option == "drop_last"})
        assert type(master).from_json(master.to_json()) == master != make()
