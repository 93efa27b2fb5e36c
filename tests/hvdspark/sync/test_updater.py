"""The optimizer's state, averaged: what cannot be is refused by name."""

import numpy as np
import pytest
import torch

from contracts.problem import backward, make_module, sgd
from hvdspark import ParameterAveraging
from hvdspark.collectives import run_ranks
from hvdspark.errors import NonFiniteError, RankMismatch, UnsupportedError


def adam(module):
    return torch.optim.Adam(module.parameters(), lr=1e-2)


def test_an_updater_that_cannot_be_averaged_is_refused_by_name():
    def different_steps(world):
        module = make_module()
        optimizer = ParameterAveraging(adam(module), world, averaging_frequency=2)
        backward(module)
        optimizer.step()
        if world.rank:
            next(iter(optimizer.state.values()))["step"] += 1
        with pytest.raises(RankMismatch, match=r"'step' of 'parameter 0' \(rank 0: 2.0, rank 1: 3.0\)"):
            optimizer.step()

    run_ranks(different_steps, 2)

    def half(world):
        module = make_module()
        optimizer = ParameterAveraging(sgd(module), world, averaging_frequency=2)
        backward(module)
        optimizer.step()
        for state in optimizer.state.values():
            state["momentum_buffer"] = state["momentum_buffer"].double()
        with pytest.raises(UnsupportedError, match="save_updater=False"):
            optimizer._meeting._followers[0](1.0)

    run_ranks(half, 2)

    def factored(world):
        module = make_module()
        own = torch.optim.Adafactor(module.parameters())
        optimizer = ParameterAveraging(own, world, averaging_frequency=1)
        backward(module)
        with pytest.raises(UnsupportedError, match=r"'col_var' of 'parameter 0' has .*save_updater=False"):
            optimizer.step()

    run_ranks(factored, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_state_of_16_bits_is_averaged_in_32(dtype):
    def fn(world):
        module = make_module()
        optimizer = ParameterAveraging(sgd(module), world, averaging_frequency=2)
        backward(module)
        optimizer.step()
        for state in optimizer.state.values():
            # Their sum is more than float16 holds.
            state["momentum_buffer"] = torch.full_like(state["momentum_buffer"], 30_000 + 64 * world.rank, dtype=dtype)
        optimizer._meeting._followers[0](1.0)
        for state in optimizer.state.values():
            assert state["momentum_buffer"].dtype == dtype
            mean = torch.tensor([float(torch.tensor(30_000 + 64 * rank, dtype=dtype)) for rank in range(3)]).mean()
            assert (state["momentum_buffer"] == mean.to(dtype)).all()

    run_ranks(fn, 3)


def test_an_updater_that_is_not_finite_is_named():
    def fn(world):
        module = make_module()
        own = adam(module)
        optimizer = ParameterAveraging(own, world, averaging_frequency=1, named_parameters=module.named_parameters())
        backward(module)
        optimizer.step()
        backward(module)
        own.state[module[2].weight]["exp_avg_sq"][1, 3] = np.inf if world.rank else 0.0
        with pytest.raises(NonFiniteError, match=r"'exp_avg_sq' is inf at element 19 of '2.weight'"):
            optimizer.step()

    run_ranks(fn, 2)
