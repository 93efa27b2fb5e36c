"""exchange="auto": it goes on with what is faster for the slowest rank, says so, and loses nothing in between."""

import functools
import logging
import time

import numpy as np
import pytest
import torch

from contracts.problem import backward, make_module, sgd, weights
from hvdspark import FixedThresholdAlgorithm, SharedUpdates
from hvdspark.collectives import run_ranks
from hvdspark.errors import ConfigurationError, NonFiniteError

OPTIONS = {"threshold_algorithm": FixedThresholdAlgorithm(2e-3), "residual_post_processor": None, "exchange": "auto"}


WAYS = ("codec", "dense", "fp16")


def slow_down(exchange, names, seconds=0.03):
    """Make ways slow, whatever they are asked to add."""
    for name in names:
        way = exchange._ways[name]
        for method in ("add_total", "add_difference"):

            def slowly(add, *args, **options):
                time.sleep(seconds)
                add(*args, **options)

            setattr(way, method, functools.partial(slowly, getattr(way, method)))


@pytest.mark.parametrize("encode", ["updates", "gradients"])
@pytest.mark.parametrize("chosen", WAYS)
def test_the_slowest_rank_decides_for_all(caplog, encode, chosen):
    def fn(world):
        module = make_module(seed=world.rank)
        optimizer = SharedUpdates(sgd(module), world, encode=encode, verify_every=1, **OPTIONS)
        exchange = optimizer._exchange
        if world.rank == 1:
            slow_down(exchange, [name for name in WAYS if name != chosen])
        for step in range(16):
            assert exchange.choice == (chosen if step >= 12 else None)
            optimizer.zero_grad()
            backward(module, seed=10 * step + world.rank)
            optimizer.step()
        assert set(exchange._ways) <= {chosen, "fp16"}  # what is not needed any more is let go
        return optimizer.report().density

    with caplog.at_level(logging.INFO, logger="hvdspark"):
        densities = run_ranks(fn, 2)
    assert f'exchange="auto" goes on with {chosen}: ' in caplog.text
    assert all((density == 1.0) == (chosen != "codec") for density in densities)


@pytest.mark.parametrize("choice", [None, *WAYS])
def test_nothing_is_lost_on_the_way(choice):
    """Law 1 through trials and choice: what the ranks walked is in the weights or in the residuals."""

    def fn(world):
        module = make_module(seed=world.rank)
        optimizer = SharedUpdates(sgd(module, lr=0.05), world, verify_every=1, **OPTIONS)
        exchange = optimizer._exchange
        start, walked = weights(module).astype(np.float64), 0.0
        add_difference = exchange.add_difference

        def watch(before, after, *args, **options):
            nonlocal walked
            walked = walked + (before.astype(np.float64) - after)
            add_difference(before, after, *args, **options)

        exchange.add_difference = watch
        for step in range(17):
            if step == 9 and choice:
                exchange._choose(choice)
            optimizer.zero_grad()
            backward(module, seed=10 * step + world.rank)
            optimizer.step()
            if exchange._turn == "dense":
                assert not exchange.residual.any()
        return walked - exchange.residual, start, weights(module)

    found = run_ranks(fn, 3)
    assert len({each[2].tobytes() for each in found}) == 1
    walked = sum(each[0] for each in found) / 3
    np.testing.assert_allclose(found[0][1] - walked, found[0][2], rtol=0, atol=1e-5)


def test_nan_in_a_dense_turn_moves_nothing_and_leaves_what_was_kept():
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, **OPTIONS)
        backward(module, seed=world.rank)
        optimizer.step()
        optimizer._exchange._choose("dense")
        before, kept = weights(module), optimizer._exchange.residual.copy()
        backward(module, seed=world.rank)
        if world.rank == 1:
            next(iter(module.parameters())).grad[0, 0] = np.nan
        with pytest.raises(NonFiniteError):
            optimizer.step()
        assert weights(module).tobytes() == before.tobytes()
        assert kept.any()
        assert np.array_equal(optimizer._exchange.residual, kept)

    run_ranks(fn, 2)


@pytest.mark.parametrize("encode", ["updates", "gradients"])
def test_once_dense_is_chosen_it_is_a_dense_exchange_and_no_more(encode):
    """Nothing is carried along any more, and the steps are those of exchange="dense"."""

    def fn(world):
        def start(**options):
            module = make_module()
            return module, SharedUpdates(sgd(module), world, encode=encode, **options)

        (one, auto), (two, dense) = start(**OPTIONS), start(exchange="dense")
        auto._exchange._choose("dense")
        auto._exchange._add_all = None
        for step in range(5):
            for module, optimizer in ((one, auto), (two, dense)):
                optimizer.zero_grad()
                backward(module, seed=10 * step + world.rank)
                optimizer.step()
        assert weights(one).tobytes() == weights(two).tobytes()

    run_ranks(fn, 2)


def test_momentum_is_masked_in_turns_of_the_codec_only():
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, **OPTIONS)
        for step in range(12):
            optimizer.zero_grad()
            backward(module, seed=10 * step + world.rank)
            optimizer.step()
            momentum = torch.cat([optimizer.state[p]["momentum_buffer"].reshape(-1) for p in module.parameters()])
            assert bool((momentum == 0).any()) == (step < 4)

    run_ranks(fn, 2)


def test_a_state_keeps_the_choice():
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, **OPTIONS)
        for step in range(13):
            backward(module, seed=step)
            optimizer.step()
        other = SharedUpdates(sgd(make_module()), world, **OPTIONS)
        other.load_state_dict(optimizer.state_dict())
        assert other._exchange.choice == optimizer._exchange.choice is not None
        coded = SharedUpdates(sgd(make_module()), world)
        with pytest.raises(ConfigurationError, match="auto"):
            other.load_state_dict({**optimizer.state_dict(), "exchange": coded._exchange.state_dict()})

    run_ranks(fn, 2)


def test_a_state_with_another_choice_is_refused_and_one_that_does_not_fit_changes_nothing():
    def fn(world):
        def trained(choice):
            module = make_module()
            optimizer = SharedUpdates(sgd(module), world, **OPTIONS)
            backward(module, seed=1)
            optimizer.step()
            optimizer._exchange._choose(choice)
            return optimizer

        one, other = trained("dense"), trained("codec")
        with pytest.raises(ConfigurationError, match="has chosen already"):
            one.load_state_dict(other.state_dict())
        fresh = SharedUpdates(sgd(make_module()), world, **OPTIONS)
        wrong = {**other.state_dict(), "optimizer": {"state": {}, "param_groups": []}}
        with pytest.raises(ConfigurationError, match="another optimizer"):
            fresh.load_state_dict(wrong)
        assert fresh._exchange.choice is None
        fresh.load_state_dict(other.state_dict())
        assert fresh._exchange.choice == "codec"

    run_ranks(fn, 2)
