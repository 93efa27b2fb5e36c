"""Local steps, outer momentum and parameter averaging, against several models in one process: no ranks, no codec."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.problem import (
    alone,
    backward,
    even,
    make_data,
    make_module,
    ragged,
    sgd,
    shared_steps,
    weights,
)
from hvdspark import FixedThresholdAlgorithm, Nesterov, ParameterAveraging, SharedUpdates
from hvdspark.collectives import open_collective, run_ranks
from hvdspark.errors import ConfigurationError, NonFiniteError, RankLost, RankMismatch, UnsupportedError


def adam(module):
    return torch.optim.Adam(module.parameters(), lr=1e-2)


def simulated(steps, pieces, make_optimizer, length_at, outer=None, *, save_updater=False):
    """The oracle: a model a rank, in float32; their means and the outer momentum in float64."""
    size = len(pieces(0))
    modules = [make_module(seed=0) for _ in range(size)]
    optimizers = [make_optimizer(module) for module in modules]
    x, y = make_data(64)
    agreed = weights(modules[0]).astype(np.float64)
    velocity = np.zeros_like(agreed)
    counts, length = np.zeros(size), length_at(0)
    taken = 0
    for step in range(steps):
        for rank, rows in enumerate(pieces(step)):
            optimizers[rank].zero_grad()
            for parameter in modules[rank].parameters():
                parameter.grad = torch.zeros_like(parameter)
            if len(rows):
                torch.nn.functional.cross_entropy(modules[rank](x[rows]), y[rows]).backward()
            optimizers[rank].step()
            counts[rank] += len(rows)
        taken += 1
        if taken == length or step + 1 == steps:
            shares = counts / counts.sum()
            mean = sum(share * weights(module) for share, module in zip(shares, modules, strict=True))
            difference = agreed - mean
            if outer is not None:
                velocity = outer.momentum * velocity + difference
                difference = outer.lr * (difference + outer.momentum * velocity)
            agreed = agreed - difference
            for module in modules:
                torch.nn.utils.vector_to_parameters(torch.from_numpy(agreed).float(), module.parameters())
            if save_updater:
                average_states(optimizers, modules, shares)
            counts, taken, length = np.zeros(size), 0, length_at(step + 1)
    return agreed


def average_states(optimizers, modules, shares):
    for parameters in zip(*(module.parameters() for module in modules), strict=True):
        states = [optimizer.state[p] for optimizer, p in zip(optimizers, parameters, strict=True)]
        for key, value in states[0].items():
            if isinstance(value, torch.Tensor) and value.shape == parameters[0].shape:
                mean = sum(float(share) * state[key].double() for share, state in zip(shares, states, strict=True))
                for state in states:
                    state[key].copy_(mean)


def averaged_steps(world, steps, pieces, make_optimizer, **options):
    """Train with `ParameterAveraging` and return the weights."""
    module = make_module(seed=world.rank)
    optimizer = ParameterAveraging(make_optimizer(module), world, **options)
    x, y = make_data(64)
    for step in range(steps):
        rows = pieces(step)[world.rank]
        optimizer.zero_grad()
        if len(rows):
            torch.nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
        optimizer.step(examples=len(rows), total_examples=sum(len(part) for part in pieces(step)))
    optimizer.synchronise()
    return weights(module)


@pytest.mark.parametrize("make_optimizer", [sgd, adam])
@pytest.mark.parametrize("save_updater", [False, True])
@pytest.mark.parametrize("sizes", [[8, 8, 8], [8, 1, 4], [6, 0]])
def test_averaging_is_what_models_side_by_side_come_to(make_optimizer, save_updater, sizes):
    """13 steps in periods of 5: three are left over."""
    run = functools.partial(averaged_steps, averaging_frequency=5, save_updater=save_updater)
    found = run_ranks(run, len(sizes), 13, ragged(sizes), make_optimizer)
    assert len({each.tobytes() for each in found}) == 1
    wanted = simulated(13, ragged(sizes), make_optimizer, lambda _step: 5, save_updater=save_updater)
    np.testing.assert_allclose(found[0], wanted, rtol=0, atol=3e-6 if make_optimizer is sgd else 3e-5)


@pytest.mark.parametrize("sizes", [[8, 8], [5, 3], [6, 0]])
@pytest.mark.parametrize("save_updater", [False, True])
def test_averaging_at_every_step_is_one_process(sizes, save_updater):
    """Law 3, for SGD with momentum and weight decay."""
    run = functools.partial(averaged_steps, averaging_frequency=1, save_updater=save_updater)
    found = run_ranks(run, len(sizes), 20, ragged(sizes), sgd)
    np.testing.assert_allclose(found[0], alone(20, ragged(sizes), sgd), rtol=0, atol=1e-6)


@pytest.mark.parametrize("outer", [Nesterov(1.0, 0.0), Nesterov(0.7, 0.5)])
@pytest.mark.parametrize("length", [1, 4])
def test_outer_momentum(outer, length):
    for run in (
        functools.partial(averaged_steps, averaging_frequency=length, save_updater=False, outer_optimizer=outer),
        functools.partial(shared_steps, exchange="dense", local_steps=length, outer_optimizer=outer),
    ):
        found = run_ranks(run, 2, 12, even(2), sgd)
        assert found[0].tobytes() == found[1].tobytes()
        wanted = simulated(12, even(2), sgd, lambda _step: length, outer)
        np.testing.assert_allclose(found[0], wanted, rtol=0, atol=3e-6)


def test_a_schedule():
    schedule = ((0, 1), (3, 2), (8, 4))
    run = functools.partial(averaged_steps, averaging_frequency=schedule, save_updater=False)
    found = run_ranks(run, 2, 16, even(2), sgd)
    wanted = simulated(16, even(2), sgd, lambda step: 1 if step < 3 else 2 if step < 8 else 4)
    np.testing.assert_allclose(found[0], wanted, rtol=0, atol=3e-6)


def test_a_rank_alone_has_outer_momentum_too():
    with open_collective("solo") as world:
        outer = Nesterov(0.7, 0.5)
        found = averaged_steps(world, 12, even(1), sgd, averaging_frequency=4, outer_optimizer=outer)
        np.testing.assert_allclose(found, simulated(12, even(1), sgd, lambda _step: 4, outer), rtol=0, atol=3e-6)
        plain = averaged_steps(world, 12, even(1), sgd, averaging_frequency=4)
        assert plain.tobytes() == alone(12, even(1), sgd).tobytes()


@settings(max_examples=25, deadline=None)
@given(
    size=st.integers(2, 4),
    length=st.integers(1, 5),
    outer=st.sampled_from([None, Nesterov(0.7, 0.5)]),
    magnitude=st.sampled_from(["threshold", "mean", "multiples"]),
    combine=st.sampled_from(["mean", "sum"]),
    counts=st.lists(st.integers(0, 9), min_size=4, max_size=4),
)
def test_coded_local_steps_agree_and_lose_nothing(size, length, outer, magnitude, combine, counts):
    """Law 2; law 1: what the ranks walked is in the weights or in the residuals; and each walk weighs as it should."""
    counts[0] += 1  # somebody has examples

    def fn(world):
        module = make_module(seed=world.rank)
        optimizer = SharedUpdates(
            sgd(module, lr=0.05),
            world,
            threshold_algorithm=FixedThresholdAlgorithm(1e-2),
            residual_post_processor=None,
            magnitude=magnitude,
            combine=combine,
            local_steps=length,
            outer_optimizer=outer,
            verify_every=1,
        )
        start, walked = weights(module).astype(np.float64), 0.0
        add_difference = optimizer._exchange.add_difference

        def watch(before, after, *args, **options):
            nonlocal walked
            found, own = before.astype(np.float64) - after, before.astype(np.float64) - weights(module)
            by_examples = combine == "mean" and length > 1
            weight = size * counts[world.rank] / sum(counts[:size]) if by_examples else 1.0
            np.testing.assert_allclose(found, weight * own, rtol=0, atol=1e-6)
            walked = walked + found
            add_difference(before, after, *args, **options)

        optimizer._exchange.add_difference = watch
        prints = []
        for step in range(11):
            optimizer.zero_grad()
            backward(module, seed=10 * step + world.rank)
            optimizer.step(examples=counts[world.rank])
            if (step + 1) % length == 0:
                prints.append(optimizer.fingerprint())
        optimizer.synchronise()
        optimizer.verify()
        return prints, walked - optimizer._exchange.residual, start, weights(module)

    found = run_ranks(fn, size)
    assert len({tuple(each[0]) for each in found}) == 1
    assert len({each[3].tobytes() for each in found}) == 1
    if outer is None:
        walked = sum(each[1] for each in found) / (size if combine == "mean" else 1)
        np.testing.assert_allclose(found[0][2] - walked, found[0][3], rtol=0, atol=1e-5)


@pytest.mark.parametrize("make", [ParameterAveraging, SharedUpdates])
def test_ranks_that_part_are_told_at_the_end_of_the_period(make):
    def fn(world):
        module = make_module()
        name = "averaging_frequency" if make is ParameterAveraging else "local_steps"
        optimizer = make(sgd(module), world, verify_every=1, **{name: 3})
        for step in range(5):
            backward(module, seed=step)
            optimizer.step()
            if step == 2 and world.rank == 1:
                with torch.no_grad():
                    next(iter(module.parameters()))[0, 0] += 0.5
        backward(module)
        with pytest.raises(RankMismatch, match="weights differ between ranks after step 6"):
            optimizer.step()

    run_ranks(fn, 2)


def test_what_the_optimizer_raises_on_one_rank_ends_the_others_too():
    def fn(world):
        module = make_module()
        own = sgd(module)
        optimizer = ParameterAveraging(own, world, averaging_frequency=4)
        if world.rank == 1:
            own.register_step_pre_hook(lambda *_: (_ for _ in ()).throw(KeyError("mine")))
        backward(module)
        if world.rank == 1:
            with pytest.raises(KeyError, match="mine"):
                optimizer.step()
            return
        for _ in range(3):
            try:
                optimizer.step()
            except RankLost:  # asking which parameters are used, it may hear of it before the period is over
                break
        with pytest.raises(RankLost, match="rank 1"):
            optimizer.step()
        world.abort()

    run_ranks(fn, 2)


def test_ranks_meet_only_where_a_period_ends_and_fewer_bytes_go():
    def fn(world, length):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, exchange="dense", local_steps=length, verify_every=0)
        prints = []
        for step in range(8):
            optimizer.zero_grad()
            backward(module, seed=10 * step + world.rank)
            optimizer.step()
            prints.append(optimizer.fingerprint())
        report = optimizer.report()
        return prints, report.bytes_sent, report.exchanges, report.steps

    one, four = run_ranks(fn, 2, 1), run_ranks(fn, 2, 4)
    agree = [a == b for a, b in zip(four[0][0], four[1][0], strict=True)]
    assert agree == [False, False, False, True] * 2
    assert (four[0][2], four[0][3], one[0][2]) == (2, 8, 8)
    assert four[0][1] < one[0][1] / 3


def test_after_an_error_the_weights_are_those_of_the_last_agreement():
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, local_steps=3)
        for step in range(5):
            optimizer.zero_grad()
            backward(module, seed=step)
            optimizer.step()
            if step == 2:
                agreed = weights(module)
        if world.rank == 1:
            with torch.no_grad():
                next(iter(module.parameters()))[0, 0] = np.nan
        with pytest.raises(NonFiniteError if world.rank == 1 else RankLost):
            optimizer.step()
        assert weights(module).tobytes() == agreed.tobytes()

    run_ranks(fn, 2)


def test_options_that_differ_are_named_as_they_were_given():
    def fn(world):
        with pytest.raises(RankMismatch, match=r"averaging_frequency: rank 0: \[\[0, 3\]\], rank 1: \[\[0, 4\]\]"):
            ParameterAveraging(sgd(make_module()), world, averaging_frequency=3 + world.rank)

    run_ranks(fn, 2)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"local_steps": 2, "encode": "gradients"}, "local_steps and outer_optimizer cannot act"),
        ({"outer_optimizer": Nesterov(1.0, 0.5), "encode": "gradients"}, "local_steps and outer_optimizer cannot act"),
        ({"outer_optimizer": "nesterov"}, "a Nesterov is needed"),
        ({"local_steps": 0}, "local_steps"),
    ],
)
def test_options_that_cannot_act_are_refused(options, said):
    with open_collective("solo") as world, pytest.raises((ConfigurationError, UnsupportedError), match=said):
        SharedUpdates(sgd(make_module()), world, **options)


def test_averaging_refuses_what_is_no_choice():
    with open_collective("solo") as world:
        with pytest.raises(ConfigurationError, match="averaging_frequency"):
            ParameterAveraging(sgd(make_module()), world, averaging_frequency=0)
        with pytest.raises(ConfigurationError, match="save_updater"):
            ParameterAveraging(sgd(make_module()), world, save_updater="yes")
    with pytest.raises(ConfigurationError, match="momentum"):
        Nesterov(0.7, 1.0)
    assert Nesterov.from_json(Nesterov(0.7, 0.5).to_json()) == Nesterov(0.7, 0.5)
