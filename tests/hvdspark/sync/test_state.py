"""States: they go on bit for bit, and what is no such state is refused before anything changes."""

import copy

import pytest
import torch

from contracts.problem import backward, make_module, sgd, weights
from hvdspark import Nesterov, ParameterAveraging, SharedUpdates
from hvdspark.collectives import run_ranks
from hvdspark.errors import ConfigurationError


def test_a_state_in_the_middle_of_a_period_goes_on_bit_for_bit():
    options = {"local_steps": 4, "outer_optimizer": Nesterov(0.7, 0.5)}

    def fn(world):
        def start():
            module = make_module()
            return module, SharedUpdates(sgd(module), world, **options)

        def train(module, optimizer, steps):
            for step in steps:
                optimizer.zero_grad()
                backward(module, seed=10 * step + world.rank)
                optimizer.step(examples=1 + world.rank)

        one, first = start()
        train(one, first, range(6))
        state, kept = copy.deepcopy(first.state_dict()), copy.deepcopy(one.state_dict())
        train(one, first, range(6, 13))
        two, second = start()
        two.load_state_dict(kept)
        second.load_state_dict(state)
        train(two, second, range(6, 13))
        assert weights(one).tobytes() == weights(two).tobytes()
        assert first.report().exchanges == second.report().exchanges == 3
        third = SharedUpdates(sgd(make_module()), world, local_steps=4)
        with pytest.raises(ConfigurationError, match="outer_optimizer"):
            third.load_state_dict(state)

    run_ranks(fn, 2)


def test_a_state_in_the_middle_of_a_period_goes_with_its_own_weights():
    def fn(world):
        module = make_module()
        optimizer = ParameterAveraging(sgd(module), world, averaging_frequency=4)
        backward(module, seed=world.rank)
        optimizer.step()
        with pytest.raises(ConfigurationError, match=r"call synchronise\(\) first"):
            optimizer.verify()
        state = copy.deepcopy(optimizer.state_dict())
        other = ParameterAveraging(sgd(make_module(seed=9)), world, averaging_frequency=4)
        other.load_state_dict(state)
        with pytest.raises(ConfigurationError, match="this rank's own module"):
            other.step()
        with pytest.raises(ConfigurationError, match="this rank's own module"):
            other.synchronise()

    run_ranks(fn, 2)


@pytest.mark.parametrize(
    "damage",
    [
        {"period": (torch.zeros(276),)},
        {"period": (torch.zeros(3), 0, 4, 1, None, None, 0.0)},
        {"period": (torch.zeros(276), 0, 4, 4, None, None, 0.0)},
        {"period": (torch.zeros(276), 0, 4, 1, -2, None, 0.0)},
        {"period": (torch.zeros(276), 0, 4, 0, None, None, 0.0)},
        {"period": (torch.zeros(276), 0, 4, 1, None, None, 1.5)},
        {"steps": None},
        {"exchanges": -1},
        {"optimizer": {}},
        {"optimizer": None},
        {"exchange": None},
        {"active": [True]},
        {"rank": 7},
        {"velocity": torch.zeros(276)},
    ],
    ids=lambda damage: next(iter(damage)),
)
def test_a_damaged_state_is_refused_and_changes_nothing(damage):
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, local_steps=4)
        for step in range(6):
            backward(module, seed=step)
            optimizer.step()
        before = copy.deepcopy(optimizer.state_dict())
        with pytest.raises(ConfigurationError):
            optimizer.load_state_dict({**copy.deepcopy(before), **damage})
        after = optimizer.state_dict()
        assert {name: str(value) for name, value in after.items()} == {n: str(v) for n, v in before.items()}

    run_ranks(fn, 2)
