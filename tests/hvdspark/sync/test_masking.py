"""Momentum masking: what was sent has no momentum any more, the rest keeps it; and who asks for it."""

import numpy as np
import pytest
import torch

from contracts.problem import backward, make_module, sgd, weights
from hvdspark import FixedThresholdAlgorithm, SharedUpdates
from hvdspark.collectives import open_collective, run_ranks
from hvdspark.errors import ConfigurationError

OPTIONS = {"threshold_algorithm": FixedThresholdAlgorithm(2e-3), "residual_post_processor": None}


def momentum(optimizer):
    """The momentum of all parameters, one after the other."""
    groups = optimizer.param_groups
    return torch.cat(
        [optimizer.state[p]["momentum_buffer"].reshape(-1) for group in groups for p in group["params"]]
    ).numpy().copy()  # fmt: skip


@pytest.mark.parametrize("choice", ["auto", True, False])
def test_what_was_sent_and_nothing_else(choice):
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, momentum_masking=choice, **OPTIONS)
        twin_module = make_module()
        twin = sgd(twin_module)
        for step in range(6):
            for each, made in ((module, optimizer), (twin_module, twin)):
                made.zero_grad()
                backward(each, seed=10 * step + world.rank)
            twin.step()
            expected = momentum(twin)
            optimizer.step()
            sent = np.abs(optimizer._exchange.sent) - 1
            assert 0 < sent.size < expected.size
            if choice:
                expected[sent] = 0.0
            np.testing.assert_array_equal(momentum(optimizer), expected)
            with torch.no_grad():  # the twin goes on from what was agreed
                torch.nn.utils.vector_to_parameters(torch.from_numpy(weights(module)), twin_module.parameters())
                for mine, other in zip(twin_module.parameters(), module.parameters(), strict=True):
                    twin.state[mine]["momentum_buffer"].copy_(optimizer.state[other]["momentum_buffer"])

    run_ranks(fn, 2)


def test_momentum_that_was_loaded_is_masked_too():
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, **OPTIONS)
        for step in range(4):
            optimizer.zero_grad()
            backward(module, seed=10 * step + world.rank)
            optimizer.step()
            assert not momentum(optimizer)[np.abs(optimizer._exchange.sent) - 1].any()
            optimizer.load_state_dict(optimizer.state_dict())

    run_ranks(fn, 2)


def test_a_step_that_was_not_shared_masks_nothing():
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, **OPTIONS)
        backward(module, seed=world.rank)
        optimizer.step()
        before = momentum(optimizer)
        backward(module, seed=5)
        if world.rank == 1:
            next(iter(module.parameters())).grad[0, 0] = np.nan
        with pytest.raises(Exception, match=r"nan|rank 1"):
            optimizer.step()
        if world.rank == 0:
            kept = momentum(optimizer)
            assert (kept[before != 0] != 0).all()

    run_ranks(fn, 2)


@pytest.mark.parametrize(
    ("options", "optimizer", "masked"),
    [
        ({}, sgd, True),
        ({"local_steps": 4}, sgd, False),
        ({"local_steps": 4, "momentum_masking": True}, sgd, True),
        ({"encode": "gradients"}, sgd, False),
        ({"exchange": "dense", "threshold_algorithm": None}, sgd, False),
        ({}, lambda module: torch.optim.Adam(module.parameters()), False),
        ({}, lambda module: torch.optim.SGD(module.parameters(), lr=0.1), False),
    ],
)
def test_who_is_masked(options, optimizer, masked):
    def fn(world):
        made = SharedUpdates(optimizer(make_module()), world, **options)
        return len(made._meeting._followers) == 1

    assert run_ranks(fn, 2) == [masked] * 2


@pytest.mark.parametrize(
    ("options", "optimizer", "said"),
    [
        ({}, lambda module: torch.optim.Adam(module.parameters()), "this is Adam"),
        ({}, lambda module: torch.optim.SGD(module.parameters(), lr=0.1), "SGD without momentum"),
        ({"encode": "gradients"}, sgd, 'encode="gradients"'),
        ({"exchange": "dense"}, sgd, 'exchange="dense"'),
    ],
)
def test_where_it_cannot_act_it_is_refused(options, optimizer, said):
    with open_collective("solo") as world, pytest.raises(ConfigurationError, match=said):
        SharedUpdates(optimizer(make_module()), world, momentum_masking=True, **options)


@pytest.mark.parametrize("choice", ["yes", 1, 0, np.True_, None])
def test_a_value_that_is_no_choice_is_refused(choice):
    with open_collective("solo") as world, pytest.raises(ConfigurationError, match="momentum_masking: one of"):
        SharedUpdates(sgd(make_module()), world, momentum_masking=choice)
