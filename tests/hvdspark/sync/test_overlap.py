"""Overlap: what a step sends is applied one step late, and nothing else changes."""

import copy
import gc
import threading
import time

import numpy as np
import pytest
import torch

from contracts.problem import backward, make_module, sgd, weights
from hvdspark import FixedThresholdAlgorithm, Nesterov, SharedUpdates
from hvdspark.collectives import open_collective, run_ranks
from hvdspark.errors import ConfigurationError, NonFiniteError, RankLost

TAU = FixedThresholdAlgorithm(2e-3)
LATE = {"overlap": "next_step"}


def delayed(steps, size):
    """The oracle: one model a rank, whose mean update is applied after the next gradient was taken."""
    modules = [make_module() for _ in range(size)]
    optimizers = [sgd(module) for module in modules]
    pending = None
    for step in range(steps):
        for rank, module in enumerate(modules):
            optimizers[rank].zero_grad()
            backward(module, seed=10 * step + rank)
        agreed = weights(modules[0])
        if pending is not None:
            agreed = agreed - pending
            for module in modules:
                torch.nn.utils.vector_to_parameters(torch.from_numpy(agreed.copy()), module.parameters())
        moved = []
        for module, optimizer in zip(modules, optimizers, strict=True):
            optimizer.step()
            moved.append(agreed - weights(module))
            torch.nn.utils.vector_to_parameters(torch.from_numpy(agreed.copy()), module.parameters())
        pending = np.mean(moved, axis=0, dtype=np.float64).astype(np.float32)
    return agreed - pending


def train(module, optimizer, world, steps):
    for step in steps:
        optimizer.zero_grad()
        backward(module, seed=10 * step + world.rank)
        optimizer.step()


@pytest.mark.parametrize("ranks_per_host", [None, 2])
def test_without_a_code_it_is_the_mean_update_one_step_late(ranks_per_host):
    def fn(world):
        module = make_module(seed=world.rank)
        optimizer = SharedUpdates(sgd(module), world, exchange="dense", **LATE)
        train(module, optimizer, world, range(9))
        optimizer.synchronise()
        report = optimizer.report()
        assert (report.steps, report.exchanges) == (9, 9)
        assert report.bytes_sent > 0
        return weights(module)

    found = run_ranks(fn, 3, ranks_per_host=ranks_per_host)
    assert len({each.tobytes() for each in found}) == 1
    np.testing.assert_allclose(found[0], delayed(9, 3), rtol=0, atol=2e-6)


def test_bytes_are_counted_once_whoever_waits_for_them():
    def fn(world, options):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, exchange="dense", **options)
        add_total = optimizer._exchange.add_total

        def slow(*args, **more):
            time.sleep(0.005)  # so that the next step waits for it
            add_total(*args, **more)

        optimizer._exchange.add_total = slow
        train(module, optimizer, world, range(9))
        optimizer.synchronise()
        return optimizer.report().bytes_sent

    assert run_ranks(fn, 2, LATE) == run_ranks(fn, 2, {})


@pytest.mark.parametrize("ranks_per_host", [None, 2])
@pytest.mark.parametrize("other", [LATE, {}])
def test_two_on_one_collective_count_their_own_bytes(other, ranks_per_host):
    """What the first has sent is under way when the second begins to count."""

    def train_two(world, first, second):
        modules = [make_module(seed=seed) for seed in (0, 1)]
        pair = zip(modules, (first, second), strict=True)
        optimizers = [SharedUpdates(sgd(module), world, exchange="dense", **options) for module, options in pair]
        under_way = threading.Event()
        if first:
            add_total = optimizers[0]._exchange.add_total

            def slow(*args, **more):
                assert under_way.wait(20)
                add_total(*args, **more)

            may_step = optimizers[1]._may_step

            def release(*args):
                under_way.set()
                return may_step(*args)

            optimizers[0]._exchange.add_total, optimizers[1]._may_step = slow, release
        for number in range(5):
            for module, optimizer in zip(modules, optimizers, strict=True):
                train(module, optimizer, world, [number])
            for optimizer in optimizers:
                optimizer.synchronise()
            under_way.clear()
        reports = [optimizer.report() for optimizer in optimizers]
        return [(report.bytes_sent, report.local_bytes) for report in reports]

    together = run_ranks(train_two, 3, LATE, other, ranks_per_host=ranks_per_host)
    assert together == run_ranks(train_two, 3, {}, {}, ranks_per_host=ranks_per_host)


def test_codes_agree_at_every_step_and_lose_nothing():
    def fn(world):
        module = make_module(seed=world.rank)
        options = {"threshold_algorithm": TAU, "residual_post_processor": None, "verify_every": 1}
        optimizer = SharedUpdates(sgd(module), world, **options, **LATE)
        start, went_in, prints = weights(module).astype(np.float64), 0.0, []
        for step in range(12):
            train(module, optimizer, world, [step])
            went_in = went_in + optimizer._meeting._flight.vector.numpy().astype(np.float64)
            prints.append(optimizer.fingerprint())
        optimizer.synchronise()
        return prints, went_in - optimizer._exchange.residual, start, weights(module)

    found = run_ranks(fn, 3)
    assert len({tuple(each[0]) for each in found}) == 1
    moved = sum(each[1] for each in found) / 3
    np.testing.assert_allclose(found[0][2] - moved, found[0][3], rtol=0, atol=1e-5)


def test_the_exchange_is_on_another_thread_while_the_next_step_computes():
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, exchange="dense", **LATE)
        may_go, seen = threading.Event(), []
        add_total = optimizer._exchange.add_total

        def slow(*args, **options):
            seen.append(threading.current_thread().name)
            assert may_go.wait(20)
            add_total(*args, **options)

        optimizer._exchange.add_total = slow
        before = weights(module)
        train(module, optimizer, world, [0])  # returns, though nothing has been exchanged
        assert weights(module).tobytes() == before.tobytes()
        may_go.set()
        optimizer.synchronise()
        assert weights(module).tobytes() != before.tobytes()
        assert seen[0].startswith("hvdspark-exchange")

    run_ranks(fn, 2)


def test_closing_the_collective_applies_what_is_under_way():
    def fn(world, how):
        module = make_module(seed=world.rank)
        with open_collective("threads") as own:
            optimizer = SharedUpdates(sgd(module), own, threshold_algorithm=TAU, **LATE)
            slow_down(optimizer, world.rank)
            train(module, optimizer, own, range(4))
            if how == "synchronise":
                optimizer.synchronise()
            assert len(own.unfinished) == (how == "close")
            del optimizer  # nobody but the collective knows of what is under way
            gc.collect()
        return weights(module).tobytes()

    assert run_ranks(fn, 3, "synchronise") == run_ranks(fn, 3, "close")


def slow_down(optimizer, rank):
    """Let the exchanges of some ranks end later than those of others."""
    add_total = optimizer._exchange.add_total

    def slow(*args, **options):
        add_total(*args, **options)
        time.sleep(0.02 * rank)

    optimizer._exchange.add_total = slow


def test_what_else_uses_the_collective_waits():
    def fn(world, others):
        module = make_module(seed=world.rank)
        optimizer = SharedUpdates(sgd(module), world, threshold_algorithm=TAU, verify_every=2, **LATE)
        slow_down(optimizer, world.rank)
        for step in range(4):
            train(module, optimizer, world, [step])
            if others:
                array = np.full(7, world.rank + step, np.float32)
                world.allreduce_(array)
                assert array.tolist() == [3 + 3 * step] * 7
                optimizer.verify()
        optimizer.synchronise()
        return weights(module).tobytes()

    assert run_ranks(fn, 3, True) == run_ranks(fn, 3, False)


def test_nan_that_nobody_waited_for_is_told_when_the_collective_closes():
    def fn(world):
        module = make_module()
        own = open_collective("threads")
        optimizer = SharedUpdates(sgd(module), own, threshold_algorithm=TAU, **LATE)
        backward(module)
        if world.rank == 1:
            next(iter(module.parameters())).grad[0, 0] = np.nan
        optimizer.step()
        with pytest.raises(NonFiniteError if world.rank == 1 else RankLost):
            own.close()
        own.abort()

    run_ranks(fn, 2)


def test_a_state_with_an_exchange_under_way_goes_on_bit_for_bit():
    def fn(world):
        one = make_module()
        first = SharedUpdates(sgd(one), world, threshold_algorithm=TAU, **LATE)
        train(one, first, world, range(5))
        state, module = copy.deepcopy(first.state_dict()), copy.deepcopy(one.state_dict())
        train(one, first, world, range(5, 9))
        first.synchronise()
        two = make_module()
        second = SharedUpdates(sgd(two), world, threshold_algorithm=TAU, **LATE)
        two.load_state_dict(module)
        second.load_state_dict(state)
        train(two, second, world, range(5, 9))
        second.synchronise()
        assert weights(one).tobytes() == weights(two).tobytes()

    run_ranks(fn, 2)


def test_nan_is_told_one_step_late_and_moves_nothing():
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, threshold_algorithm=TAU, **LATE)
        train(module, optimizer, world, range(3))
        backward(module)
        if world.rank == 1:
            next(iter(module.parameters())).grad[0, 0] = np.nan
        optimizer.step()
        before = weights(module)
        with pytest.raises(NonFiniteError if world.rank == 1 else RankLost):
            optimizer.synchronise()
        assert weights(module).tobytes() == before.tobytes()

    run_ranks(fn, 2)


@pytest.mark.parametrize(
    "options",
    [{"local_steps": 2}, {"outer_optimizer": Nesterov(0.7, 0.5)}, {"encode": "gradients"}, {"overlap": "always"}],
)
def test_where_it_cannot_act_it_is_refused(options):
    with open_collective("solo") as world, pytest.raises(ConfigurationError, match="overlap"):
        SharedUpdates(sgd(make_module()), world, **{**LATE, **options})


@pytest.mark.parametrize("fails", [False, True])
def test_a_state_takes_the_place_of_what_is_under_way(fails):
    """Also of what has gone wrong: that is why a state is loaded."""

    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, overlap="next_step", verify_every=0)
        backward(module, seed=world.rank)
        optimizer.step()
        optimizer.synchronise()
        state = copy.deepcopy(optimizer.state_dict())  # torch's part of it is the live tensors
        backward(module, seed=10 + world.rank)
        if fails and world.rank == 1:
            next(iter(module.parameters())).grad[0, 0] = np.nan
        optimizer.step()
        optimizer.load_state_dict(state)
        assert not world.unfinished
        optimizer.zero_grad()
        backward(module, seed=20 + world.rank)
        optimizer.step()
        optimizer.synchronise()
        return weights(module).tobytes(), optimizer.report().steps

    found = run_ranks(fn, 2)
    assert found[0] == found[1]
    assert found[0][1] == 2
