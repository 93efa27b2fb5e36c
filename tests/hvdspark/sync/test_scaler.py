"""torch.amp.GradScaler: scaled gradients give the same steps, and one rank's overflow skips the step of all."""

import numpy as np
import pytest
import torch

from contracts.problem import make_data, make_module, sgd, weights
from hvdspark import FixedThresholdAlgorithm, ParameterAveraging, SharedUpdates
from hvdspark.collectives import open_collective, run_ranks

MAKE = {
    "codes": lambda own, world: SharedUpdates(own, world, threshold_algorithm=FixedThresholdAlgorithm(2e-3)),
    "gradients": lambda own, world: SharedUpdates(own, world, encode="gradients"),
    "dense": lambda own, world: SharedUpdates(own, world, exchange="dense"),
    "averaging": lambda own, world: ParameterAveraging(own, world, averaging_frequency=3),
}


def train(world, make, scaler, steps=9, overflow=(), unscale=False):
    module = make_module()
    optimizer = MAKE[make](sgd(module), world)
    for step in range(steps):
        x, y = make_data(16, seed=10 * step + world.rank)
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(module(x), y)
        if scaler is None:
            loss.backward()
            optimizer.step(examples=16)
            continue
        scaler.scale(loss).backward()
        if (step, world.rank) in overflow:
            next(iter(module.parameters())).grad[0, 0] = np.inf
        if unscale:
            scaler.unscale_(optimizer)
        scaler.step(optimizer, examples=16)
        scaler.update()
    optimizer.synchronise()
    return weights(module), optimizer.report().steps


@pytest.mark.parametrize("make", MAKE)
@pytest.mark.parametrize("unscale", [False, True])
def test_scaled_gradients_give_the_same_steps(make, unscale):
    def fn(world):
        plain, _ = train(world, make, None)
        scaled, steps = train(world, make, torch.amp.GradScaler("cpu", init_scale=1024.0), unscale=unscale)
        assert steps == 9
        np.testing.assert_array_equal(plain, scaled)  # a power of two costs no bit

    run_ranks(fn, 2)


@pytest.mark.parametrize("make", MAKE)
def test_an_overflow_on_one_rank_skips_the_step_of_all(make):
    def fn(world):
        scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1000)
        found, steps = train(world, make, scaler, overflow={(2, 1), (5, 0), (6, 0)})
        assert steps == 6
        assert scaler.get_scale() == (256.0 if world.rank == 0 else 512.0), "each goes on by what it found"
        return found.tobytes()

    assert len(set(run_ranks(fn, 2))) == 1


def test_alone():
    with open_collective("solo") as world:
        found, steps = train(world, "codes", torch.amp.GradScaler("cpu", init_scale=1024.0), overflow={(3, 0)})
        assert steps == 8
        assert np.isfinite(found).all()
