"""exchange="fp16": half the bytes both ways, numbers that float16 does not reach, and nothing is lost to rounding."""

import functools
import struct

import numpy as np
import pytest
import torch

from contracts.problem import alone, backward, make_module, sgd, shared_steps, weights
from hvdspark import SharedUpdates
from hvdspark.collectives import run_ranks
from hvdspark.errors import ConfigurationError, MessageError, NonFiniteError, RankLost, RankMismatch, UnsupportedError
from hvdspark.sync.fp16 import Fp16Exchange
from hvdspark.sync.part import Part
from hvdspark.sync.phases import Phases

N = 1000


def totals(world, make, steps=1, n=N):
    """Add the same kind of vectors several times; return what was put in, what came out, and what is kept."""
    exchange, out = Fp16Exchange(world, n, Phases()), np.zeros(n, np.float32)
    put_in = np.zeros(n)
    for step in range(steps):
        vector = make(np.random.default_rng([step, world.rank]), n).astype(np.float32)
        put_in += vector
        exchange.add_total(vector, out, 1.0, part=Part())
    return put_in, out, exchange.residual.astype(np.float64)


@pytest.mark.parametrize("exponent", [-44, -30, -9, 0, 5, 30, 37])
def test_any_magnitude_of_float32_arrives_to_eleven_bits(exponent):
    """Also where float16 would be zero or infinity."""
    found = run_ranks(totals, 3, lambda rng, n: rng.uniform(0.5, 1, n) * 10.0**exponent)
    put_in = sum(each[0] for each in found)
    np.testing.assert_allclose(found[0][1], put_in, rtol=2**-10, atol=1e-44)


def test_rounding_errors_do_not_add_up():
    found = run_ranks(totals, 3, lambda rng, n: rng.normal(size=n), 300)
    put_in, kept = (sum(each[i] for each in found) for i in (0, 2))
    assert np.abs(kept).max() < 0.02  # a few roundings of one step, not 300
    np.testing.assert_allclose(found[0][1] + kept, put_in, rtol=0, atol=1e-3)
    assert np.abs(found[0][1] - put_in).max() < 0.02


def test_it_trains_as_one_rank_with_the_whole_batch():
    def pieces(_step):
        return np.array_split(np.arange(64), 3)

    make = functools.partial(sgd, lr=0.05)
    run = functools.partial(shared_steps, exchange="fp16", encode="gradients")
    found = run_ranks(run, 3, 20, pieces, make)
    assert len({each.tobytes() for each in found}) == 1
    np.testing.assert_allclose(found[0], alone(20, pieces, make), rtol=0, atol=1e-3)


def test_half_the_bytes_of_dense_both_ways():
    def fn(world):
        exchange = Fp16Exchange(world, 1 << 16, Phases())
        before = world.sent_bytes
        exchange.add_total(np.ones(1 << 16, np.float32), np.zeros(1 << 16, np.float32), 1.0, part=Part())
        return world.sent_bytes - before

    # to owners: three quarters of it; from the owner: its quarter, counted once
    assert all(2 * (1 << 16) <= sent < 2 * (1 << 16) + 1000 for sent in run_ranks(fn, 4))


def test_ranks_that_count_otherwise_are_refused_together():
    def fn(world):
        exchange, out = Fp16Exchange(world, 10, Phases()), np.zeros(10, np.float32)
        with pytest.raises(RankMismatch, match=r"ranks \[1\] did not give it"):
            exchange.add_total(np.ones(10, np.float32), out, 1.0, part=Part(None if world.rank else 5))
        np.testing.assert_array_equal(exchange.residual, 1)
        exchange.add_total(np.ones(10, np.float32), out, 1.0, part=Part())
        np.testing.assert_array_equal(out, 4)  # both steps of both ranks

    run_ranks(fn, 2)


@pytest.mark.parametrize("damage", ["short", "mark", "step", "infinity"])
def test_a_damaged_message_is_refused_and_nothing_moves(damage):
    def fn(world):
        exchange, out = Fp16Exchange(world, 10, Phases()), np.zeros(10, np.float32)
        alltoall = world.alltoall

        def damaged(messages):
            if world.rank == 1:
                messages[0] = messages[0][:-1] if damage == "short" else messages[0].copy()
                if damage == "mark":
                    messages[0][0] ^= 1
                if damage == "step":
                    messages[0][8] ^= 1
                if damage == "infinity":
                    messages[0][-2:] = np.frombuffer(struct.pack("<e", np.inf), np.uint8)
            return alltoall(messages)

        world.alltoall = damaged
        with pytest.raises(MessageError if world.rank == 0 else RankLost, match="float16"):
            exchange.add_total(np.ones(10, np.float32), out, 1.0, part=Part())
        assert not out.any()
        np.testing.assert_array_equal(exchange.residual, 1)

    run_ranks(fn, 2)


def test_what_it_cannot_do_is_refused():
    def fn(world):
        with pytest.raises(ConfigurationError, match="topology"):
            SharedUpdates(sgd(make_module()), world, exchange="fp16", topology="hosts")
        tiny = torch.nn.Linear(1, 1, bias=False)
        with pytest.raises(UnsupportedError, match=r"2 ranks .* 1 elements"):
            SharedUpdates(sgd(tiny), world, exchange="fp16")

    run_ranks(fn, 2)


def test_a_sum_that_float16_rounds_out_of_float32_is_refused_by_all():
    def fn(world):
        exchange, out = Fp16Exchange(world, 10, Phases()), np.zeros(10, np.float32)
        value = 2.0**127 * (1 - 2.0**-11) if world.rank else 0.75 * 2.0**117
        with pytest.raises((NonFiniteError, RankLost), match="float32 cannot hold"):
            exchange.add_total(np.full(10, value, np.float32), out, 1.0, part=Part())
        assert not out.any()

    run_ranks(fn, 3)


def test_a_state_of_another_exchange_is_refused():
    def fn(world):
        exchange = Fp16Exchange(world, 10, Phases())
        for state in ({}, {"residual": torch.zeros(9), "sent": 0}, {"encoder": {}, "sent": 0}):
            with pytest.raises(ConfigurationError, match="fp16"):
                exchange.load_state_dict(state)
        for residual, sent in ((torch.full((10,), np.nan), 0), (torch.ones(10), -1), (torch.ones(10), "many")):
            with pytest.raises(ConfigurationError, match="damaged"):
                exchange.load_state_dict({"residual": residual, "sent": sent})
        assert not exchange.residual.any()

    run_ranks(fn, 2)


def test_several_hosts_meet_as_if_they_were_one():
    """topology="auto" goes by host elsewhere; here each rank owns a region, whatever its host."""

    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, exchange="fp16")
        backward(module, seed=world.rank)
        optimizer.step()
        return weights(module).tobytes()

    assert len(set(run_ranks(fn, 4, ranks_per_host=2))) == 1
