"""Looking ahead: between meetings a rank's weights hold a share of its residual, and what ranks agree on does not."""

import copy

import numpy as np
import pytest
import torch

from contracts.problem import backward, make_module, sgd, weights
from hvdspark import (
    FixedThresholdAlgorithm,
    Nesterov,
    QuantileThresholdAlgorithm,
    SharedTrainingMaster,
    SharedUpdates,
)
from hvdspark.collectives import run_ranks
from hvdspark.errors import ConfigurationError, NonFiniteError, RankLost

SHARE = 0.3
OPTIONS = {"local_steps": 4, "residual_lookahead": SHARE, "threshold_algorithm": FixedThresholdAlgorithm(1e-2)}


def start(world, **options):
    module = make_module()
    return module, SharedUpdates(sgd(module), world, **{**OPTIONS, **options})


def train(module, optimizer, world, steps):
    """Return how far this rank's own steps have moved its weights, in float64."""
    moved = np.zeros(weights(module).size)
    for step in steps:
        optimizer.zero_grad()
        backward(module, seed=10 * step + world.rank)
        before = weights(module).astype(np.float64)
        optimizer._optimizer.step = counted(optimizer._optimizer.step, module, before, moved)
        optimizer.step()
        del optimizer._optimizer.step
    return moved


def counted(step, module, before, moved):
    def own_step(*args, **kwargs):
        step(*args, **kwargs)
        moved.__iadd__(weights(module) - before)

    return own_step


def residual(optimizer):
    return optimizer.state_dict()["exchange"]["encoder"]["residual"].numpy().copy()


def test_ranks_set_out_from_where_their_residuals_lead_and_agree_without_them():
    def fn(world):
        module, optimizer = start(world)
        train(module, optimizer, world, range(8))
        ahead, kept = weights(module), residual(optimizer)
        assert optimizer.report().exchanges == 2
        optimizer.synchronise()
        agreed = weights(module)
        assert optimizer.report().exchanges == 2  # nobody has stepped since: there is nothing to exchange
        np.testing.assert_allclose(ahead, agreed - SHARE * kept, rtol=0, atol=1e-7)
        assert np.abs(ahead - agreed).max() > 1e-4
        optimizer.verify()
        return ahead.tobytes(), agreed.tobytes()

    found = run_ranks(fn, 2)
    assert len({ahead for ahead, _ in found}) == 2
    assert len({agreed for _, agreed in found}) == 1


@pytest.mark.parametrize("outer", [None, Nesterov(1.0, 0.0)])
def test_nothing_of_what_ranks_have_moved_by_is_lost_or_counted_twice(outer):
    """Law 1: where they started, moved by the mean of all their own steps, is what was agreed and what is kept back."""

    def fn(world):
        module, optimizer = start(world, outer_optimizer=outer, residual_post_processor=None)
        first = weights(module).astype(np.float64)
        moved = train(module, optimizer, world, range(41))  # one step into a period
        optimizer.synchronise()
        return first, moved, residual(optimizer).astype(np.float64), weights(module)

    found = run_ranks(fn, 2)
    wanted = found[0][0] + np.mean([moved + kept for _, moved, kept, _ in found], axis=0)
    np.testing.assert_allclose(found[0][3], wanted, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    "options",
    [
        {"threshold_algorithm": QuantileThresholdAlgorithm(), "magnitude": "mean"},
        {"combine": "sum", "magnitude": "multiples"},
        {"threshold_scope": "parameter"},
        {"momentum_masking": False, "residual_post_processor": None},
        {"outer_optimizer": Nesterov(0.7, 0.5)},
    ],
    ids=str,
)
def test_with_other_options_ranks_agree(options):
    def fn(world):
        module, optimizer = start(world, **options)
        found = []
        for step in range(60):
            train(module, optimizer, world, [step])
            if step % 10 == 9:
                optimizer.synchronise()
                found.append(optimizer.fingerprint())
        return found

    found = run_ranks(fn, 2)
    assert found[0] == found[1]
    assert len(set(found[0])) == 6


def test_what_all_ranks_do_to_their_weights_stays_done():
    """A hook may change weights after the last step of an epoch: that counts as a local step."""

    def fn(world):
        module, optimizer = start(world, residual_post_processor=None)
        train(module, optimizer, world, range(4))
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(1.0)
        moved, before = weights(module).astype(np.float64), residual(optimizer).astype(np.float64)
        optimizer.synchronise()
        assert optimizer.report().exchanges == 2
        sent = moved + SHARE * before - before + residual(optimizer)
        return sent, weights(module)

    found = run_ranks(fn, 2)
    assert len({agreed.tobytes() for _, agreed in found}) == 1
    np.testing.assert_allclose(found[0][1], np.mean([sent for sent, _ in found], axis=0), rtol=0, atol=2e-6)


def test_a_state_knows_how_far_its_rank_was_ahead():
    def fn(world):
        one, first = start(world)
        train(one, first, world, range(8))
        state, kept = copy.deepcopy(first.state_dict()), copy.deepcopy(one.state_dict())
        two, second = start(world, residual_lookahead=0.0)
        two.load_state_dict(kept)
        second.load_state_dict(state)
        first.synchronise()
        second.synchronise()
        assert weights(one).tobytes() == weights(two).tobytes()

    run_ranks(fn, 2)


def test_a_state_between_periods_goes_on_bit_for_bit():
    def fn(world):
        one, first = start(world)
        train(one, first, world, range(8))
        state, kept = copy.deepcopy(first.state_dict()), copy.deepcopy(one.state_dict())
        train(one, first, world, range(8, 13))
        two, second = start(world)
        two.load_state_dict(kept)
        second.load_state_dict(state)
        train(two, second, world, range(8, 13))
        assert weights(one).tobytes() == weights(two).tobytes()
        first.synchronise()
        second.synchronise()
        assert weights(one).tobytes() == weights(two).tobytes()

    run_ranks(fn, 2)


def test_after_an_error_the_weights_are_those_of_the_last_agreement():
    def fn(world):
        module, optimizer = start(world)
        train(module, optimizer, world, range(4))
        ahead, kept = weights(module), residual(optimizer)
        train(module, optimizer, world, range(4, 7))
        backward(module, seed=1)
        if world.rank == 0:
            next(module.parameters()).grad[0] = float("nan")
        with pytest.raises((NonFiniteError, RankLost)):
            optimizer.step()
        np.testing.assert_allclose(weights(module), ahead + SHARE * kept, rtol=0, atol=1e-7)

    run_ranks(fn, 2)


def test_a_period_of_one_step_has_equal_weights_at_both_ends():
    def fn(world):
        module, optimizer = start(world, local_steps=((0, 1), (4, 3)))
        found = []
        for step in range(9):
            train(module, optimizer, world, [step])
            found.append(weights(module).tobytes())
        return found

    one, two = run_ranks(fn, 2)
    assert [a == b for a, b in zip(one, two, strict=True)] == [True] * 3 + [False] * 6


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"residual_lookahead": 1.1}, "a number from 0 to 1"),
        ({"residual_lookahead": True}, "number"),
        ({"local_steps": 1}, "local_steps=1"),
        ({"local_steps": ((0, 1), (5, 1))}, "local_steps=1"),
        ({"topology": "hosts"}, "one residual"),
        ({"exchange": "regions"}, 'exchange="regions"'),
        ({"exchange": "auto"}, 'exchange="auto"'),
    ],
    ids=str,
)
def test_where_it_cannot_act_it_is_refused(options, why):
    given = {"local_steps": 4, "residual_lookahead": SHARE, **options}
    with pytest.raises(ConfigurationError, match=f"residual_lookahead.*{why}"):
        run_ranks(lambda world: SharedUpdates(sgd(make_module()), world, **given), 1)
    with pytest.raises(ConfigurationError, match=f"residual_lookahead.*{why}"):
        SharedTrainingMaster(batch_size_per_worker=1, **given)


def test_momentum_is_masked_as_with_codes_of_every_step():
    def fn(world, masking):
        module, optimizer = start(world, momentum_masking=masking)
        train(module, optimizer, world, range(9))
        return weights(module).tobytes()

    auto, masked, unmasked = (run_ranks(fn, 2, masking)[0] for masking in ("auto", True, False))
    assert auto == masked != unmasked


def test_a_rank_alone_has_no_residual_to_look_at():
    def fn(world):
        module, optimizer = start(world)
        plain = make_module()
        alone = sgd(plain)
        train(module, optimizer, world, range(6))
        for step in range(6):
            alone.zero_grad()
            backward(plain, seed=10 * step)
            alone.step()
        assert weights(module).tobytes() == weights(plain).tobytes()

    run_ranks(fn, 1)


def test_ranks_that_look_ahead_by_different_shares_are_refused():
    def fn(world):
        with pytest.raises(Exception, match="residual_lookahead"):
            start(world, residual_lookahead=0.1 * (1 + world.rank))

    torch.manual_seed(0)
    run_ranks(fn, 2)
