"""Ranks by host: the same sums and laws by way of the hosts' first ranks, and fewer messages between hosts."""

import functools
import logging

import numpy as np
import pytest
import torch

from contracts.problem import alone, backward, even, make_module, ragged, sgd, shared_steps, weights
from hvdspark import FixedThresholdAlgorithm, ParameterAveraging, SharedUpdates
from hvdspark.collectives import run_ranks
from hvdspark.collectives.threads import ThreadsCollective
from hvdspark.errors import ConfigurationError, HvdsparkError, NonFiniteError, RankLost, RankMismatch, UnsupportedError
from hvdspark.sync.hosts import Hosts, open_hosts

TAU = FixedThresholdAlgorithm(2e-3)


@pytest.mark.parametrize("size", [3, 4, 5])
def test_every_rank_gets_the_messages_of_every_host_and_the_sum_of_all_ranks(size):
    def fn(world):
        hosts = Hosts(world)
        assert hosts.leaders == list(range(0, size, 2))
        assert hosts.place == world.rank // 2
        assert hosts.is_leader == (world.rank % 2 == 0)
        found = []
        for length in (0, 1, 7, 8, 1001):
            mine = np.full(length * (hosts.is_leader), world.rank, np.uint8)
            messages = hosts.allgather(mine)
            assert all(message.ctypes.data % 8 == 0 for message in messages if message.size)
            found.append([(message.size, set(message.tolist())) for message in messages])
            wanted = [(length, {leader} if length else set()) for leader in hosts.leaders]
            assert found[-1] == wanted
        total = np.full(5, world.rank, np.float32)
        hosts.allreduce_(total)
        assert (total == sum(range(size))).all()

    run_ranks(fn, size, ranks_per_host=2)


@pytest.mark.parametrize("encode", ["updates", "gradients"])
@pytest.mark.parametrize("sizes", [[8, 8, 8, 8], [5, 3, 0, 2], [6, 0, 0]])
def test_the_null_codec_is_one_process_by_this_way_too(encode, sizes):
    run = functools.partial(shared_steps, exchange="dense", encode=encode)
    found = run_ranks(run, len(sizes), 20, ragged(sizes), sgd, ranks_per_host=2)
    assert len({each.tobytes() for each in found}) == 1
    np.testing.assert_allclose(found[0], alone(20, ragged(sizes), sgd), rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", [{}, {"encode": "gradients"}, {"local_steps": 3}, {"momentum_masking": False}])
def test_codes_of_hosts_agree_and_lose_nothing(options):
    def fn(world):
        module = make_module(seed=world.rank)
        optimizer = SharedUpdates(
            sgd(module, lr=0.05),
            world,
            threshold_algorithm=TAU,
            residual_post_processor=None,
            verify_every=1,
            **options,
        )
        start = weights(module).astype(np.float64)
        went_in = np.zeros_like(start)
        inside = optimizer._exchange._sum_inside

        def watch(hosts, vector, part):
            went_in[:] += vector
            return inside(hosts, vector, part)

        optimizer._exchange._sum_inside = watch
        for step in range(9):
            optimizer.zero_grad()
            backward(module, seed=10 * step + world.rank)
            optimizer.step(examples=64)
        return start, went_in, optimizer._exchange.residual.astype(np.float64), weights(module), optimizer.report()

    found = run_ranks(fn, 4, ranks_per_host=2)
    assert len({each[3].tobytes() for each in found}) == 1
    assert not found[1][2].any(), "only the first rank of a host keeps something back"
    assert found[0][2].any()
    if "encode" not in options:
        moved = sum(each[1] - each[2] for each in found) / 4
        np.testing.assert_allclose(found[0][0] - moved, found[0][3], rtol=0, atol=1e-5)
    reports = [each[4] for each in found]
    assert all(report.local_bytes > 4 * 276 * 9 / options.get("local_steps", 1) for report in reports)
    assert reports[0].bytes_sent > reports[1].bytes_sent, "what goes to other hosts goes from its first rank"


def test_momentum_of_what_the_host_sent_is_masked_on_all_its_ranks():
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, threshold_algorithm=TAU)
        for step in range(3):
            optimizer.zero_grad()
            backward(module, seed=10 * step + world.rank)
            optimizer.step()
        momentum = torch.cat([optimizer.state[p]["momentum_buffer"].reshape(-1) for p in module.parameters()]).numpy()
        sent = np.abs(optimizer._exchange.sent) - 1
        assert 0 < sent.size < momentum.size
        np.testing.assert_array_equal(np.flatnonzero(momentum[sent]), [])
        assert momentum.any()
        return sent.tobytes()

    found = run_ranks(fn, 4, ranks_per_host=2)
    assert found[0] == found[1]
    assert found[2] == found[3]
    assert found[0] != found[2]


@pytest.mark.parametrize("bad", [0, 1, 2, 3])
def test_nan_of_any_rank_is_told_to_all_and_nothing_moves(bad):
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, threshold_algorithm=TAU, residual_post_processor=None)
        backward(module, seed=world.rank)
        optimizer.step()
        before = weights(module)
        backward(module, seed=world.rank)
        if world.rank == bad:
            next(iter(module.parameters())).grad[0, 0] = np.nan
        with pytest.raises(NonFiniteError if world.rank == bad // 2 * 2 else RankLost):
            optimizer.step()
        assert weights(module).tobytes() == before.tobytes()
        assert np.isfinite(optimizer._exchange.residual).all()

    run_ranks(fn, 4, ranks_per_host=2)


def test_counting_examples_on_some_ranks_of_a_host_alone_is_told():
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, combine="sum")
        backward(module)
        with pytest.raises(HvdsparkError, match="given on all ranks or on none") as caught:
            optimizer.step(examples=None if world.rank in (1, 3) else 5)
        return type(caught.value)

    assert run_ranks(fn, 4, ranks_per_host=2) == [RankMismatch, RankLost, RankMismatch, RankLost]


def test_averaging_by_storeys_gives_what_all_at_once_gives():
    def fn(world, depth):
        module = make_module(seed=world.rank)
        optimizer = ParameterAveraging(sgd(module), world, averaging_frequency=3, aggregation_depth=depth)
        for step in range(7):
            optimizer.zero_grad()
            backward(module, seed=10 * step + world.rank)
            optimizer.step(examples=1 + world.rank)
        optimizer.synchronise()
        report = optimizer.report()
        return weights(module), report.local_bytes, report.bytes_sent

    flat, storeys = (run_ranks(fn, 4, depth, ranks_per_host=2) for depth in (1, 2))
    assert len({each[0].tobytes() for each in storeys}) == 1
    np.testing.assert_allclose(flat[0][0], storeys[0][0], rtol=0, atol=1e-6)
    assert flat[0][1] == 0 < storeys[0][1]
    assert storeys[1][2] < flat[1][2]


def averaged(world, depth, **options):
    module = make_module(seed=world.rank)
    optimizer = ParameterAveraging(
        sgd(module), world, averaging_frequency=2, aggregation_depth=depth, verify_every=1, **options
    )
    start = weights(module)
    for step in range(5):
        optimizer.zero_grad()
        backward(module, seed=10 * step + world.rank)
        optimizer.step(examples=1 + world.rank % 3)
    optimizer.synchronise()
    momentum = [optimizer.state[p]["momentum_buffer"].numpy().tobytes() for p in module.parameters()]
    return start, weights(module), momentum, optimizer.report()


@pytest.mark.parametrize("ranks_per_host", [1, 2])
@pytest.mark.parametrize("size", range(1, 10))
def test_any_depth_gives_what_all_at_once_gives(size, ranks_per_host):
    flat = run_ranks(averaged, size, 1, ranks_per_host=ranks_per_host)
    for depth in range(2, 6):
        found = run_ranks(averaged, size, depth, ranks_per_host=ranks_per_host)
        assert len({each[1].tobytes() for each in found}) == 1
        assert len({tuple(each[2]) for each in found}) == 1
        np.testing.assert_allclose(found[0][1], flat[0][1], rtol=0, atol=1e-6)
        assert np.abs(found[0][1] - found[0][0]).max() > 1e-3, "they learned something"


def test_a_tree_of_hosts_spares_the_ranks_below_its_top():
    """Nine hosts in groups of three: whoever leads no group sums once, others on each level."""
    sent = {
        depth: [each[3].bytes_sent for each in run_ranks(averaged, 9, depth, ranks_per_host=1)] for depth in (2, 3, 5)
    }
    assert len(set(sent[2])) == 1
    first, second = sent[3][:2]
    assert first > second
    assert sent[3] == [first, second, second] * 3
    assert len(set(sent[5])) > 3, "pairs of pairs"


@pytest.mark.parametrize(
    ("num_hosts", "depth", "groups"),
    [
        (9, 2, []),
        (9, 3, [[0, 1, 2], [0, 3, 6]]),
        (8, 4, [[0, 1], [0, 2], [0, 4]]),
        (5, 3, [[0, 1, 2], [0, 3]]),
        (9, 9, [[0, 1], [0, 2], [0, 4], [0, 8]]),
        (2, 5, []),
    ],
)
def test_the_way_up_of_the_first_rank(num_hosts, depth, groups):
    def fn(world):
        Hosts(world, depth)
        return [[int(rank[0]) for rank in part.allgather(np.array([world.rank], np.uint8))] for part in made(world)]

    def made(world):
        return [part for levels in world._levels.values() for part in levels if part is not None]

    assert run_ranks(fn, num_hosts, ranks_per_host=1)[0] == groups


def test_a_tree_that_the_transport_cannot_make_is_refused(monkeypatch):
    def refuse(self):
        raise UnsupportedError("this transport cannot be split")

    monkeypatch.setattr(ThreadsCollective, "local", refuse)
    with pytest.raises(UnsupportedError, match="cannot be split"):
        run_ranks(averaged, 3, 3, ranks_per_host=1)


def test_ranks_must_name_one_depth():
    def fn(world):
        with pytest.raises(RankMismatch, match="aggregation_depth"):
            ParameterAveraging(sgd(make_module()), world, aggregation_depth=2 + world.rank)

    run_ranks(fn, 2)


@pytest.mark.parametrize(
    ("topology", "ranks_per_host", "by_host"),
    [
        ("auto", None, False),
        ("auto", 1, False),
        ("auto", 2, True),
        ("auto", 3, True),
        ("flat", 2, False),
        ("hosts", None, True),
        ("hosts", 1, True),
    ],
)
def test_who_goes_by_host(topology, ranks_per_host, by_host):
    found = run_ranks(lambda world: open_hosts(world, topology) is not None, 4, ranks_per_host=ranks_per_host)
    assert found == [by_host] * 4


def test_where_ranks_cannot_be_split_auto_says_so_and_goes_on(monkeypatch, caplog):
    def refuse(self):
        raise UnsupportedError("this transport cannot be split")

    monkeypatch.setattr(ThreadsCollective, "local", refuse)
    with caplog.at_level(logging.WARNING, logger="hvdspark"):
        assert run_ranks(lambda world: open_hosts(world, "auto"), 4, ranks_per_host=2) == [None] * 4
    assert "cannot be split" in caplog.text
    with pytest.raises(UnsupportedError, match="cannot be split"):
        run_ranks(lambda world: open_hosts(world, "hosts"), 4, ranks_per_host=2)


def test_what_is_no_choice_is_refused():
    def fn(world):
        with pytest.raises(ConfigurationError, match="topology"):
            SharedUpdates(sgd(make_module()), world, topology="ring")
        for depth in (0, -1, True, 2.0, "2"):
            with pytest.raises(ConfigurationError, match="aggregation_depth"):
                ParameterAveraging(sgd(make_module()), world, aggregation_depth=depth)

    run_ranks(fn, 1)


def test_even_parts_of_one_host_only_are_coded_by_every_rank():
    found = run_ranks(functools.partial(shared_steps, threshold_algorithm=TAU), 2, 3, even(2), sgd)
    assert found[0].tobytes() == found[1].tobytes()
