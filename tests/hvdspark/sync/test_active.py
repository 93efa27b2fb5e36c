"""Layers that not all ranks use at once."""

import numpy as np
import pytest
import torch

from contracts.problem import CLASSES, WIDTH, make_data, make_module, sgd, weights
from hvdspark import ParameterAveraging, SharedUpdates
from hvdspark.collectives import run_ranks


def adam(module):
    return torch.optim.Adam(module.parameters(), lr=1e-2)


class Branching(torch.nn.Module):
    """A layer more, which only some batches go through."""

    def __init__(self):
        super().__init__()
        self.always, self.sometimes = make_module(), torch.nn.Linear(WIDTH, CLASSES)
        with torch.no_grad():
            for parameter in self.sometimes.parameters():
                parameter.fill_(0.1)

    def loss(self, rank, step):
        x, y = make_data(16, seed=10 * step + rank)
        out = self.always(x)
        return torch.nn.functional.cross_entropy(out + self.sometimes(x) if self.uses(rank, step) else out, y)

    @staticmethod
    def uses(rank, step):
        return step >= 3 + 2 * rank


@pytest.mark.parametrize("encode", ["updates", "gradients"])
def test_a_layer_that_one_rank_uses_before_the_others_is_trained_as_by_one_process(encode):
    def fn(world):
        module = Branching()
        optimizer = SharedUpdates(sgd(module), world, exchange="dense", encode=encode)
        for step in range(20):
            optimizer.zero_grad()
            module.loss(world.rank, step).backward()
            optimizer.step()
        return weights(module)

    module = Branching()
    optimizer = sgd(module)
    for step in range(20):
        optimizer.zero_grad()
        (sum(module.loss(rank, step) for rank in range(2)) / 2).backward()
        optimizer.step()
    np.testing.assert_allclose(run_ranks(fn, 2)[0], weights(module), rtol=0, atol=1e-6)


@pytest.mark.parametrize("make_optimizer", [sgd, adam])
def test_averaging_goes_on_where_one_rank_uses_a_layer_before_the_others(make_optimizer):
    def fn(world):
        module = Branching()
        optimizer = ParameterAveraging(make_optimizer(module), world, averaging_frequency=4)
        for step in range(13):
            optimizer.zero_grad()
            module.loss(world.rank, step).backward()
            optimizer.step()
        optimizer.synchronise()
        return weights(module)

    found = run_ranks(fn, 2)
    assert found[0].tobytes() == found[1].tobytes()
