"""Law 2 over long runs: the same bits on all ranks with the defaults, and with every two options other than those.

Every two options take 200 steps each; ``PAIR_STEPS=1000`` in the environment takes as many as that.
"""

import itertools
import os

import pytest
import torch

from contracts.problem import make_data, make_module, sgd
from hvdspark import (
    FixedThresholdAlgorithm,
    Nesterov,
    QuantileThresholdAlgorithm,
    SharedUpdates,
    TargetSparsityThresholdAlgorithm,
)
from hvdspark.collectives import run_ranks
from hvdspark.errors import ConfigurationError

OPTIONS = {
    "threshold_algorithm": [
        FixedThresholdAlgorithm(1e-3),
        TargetSparsityThresholdAlgorithm(),
        QuantileThresholdAlgorithm(),
    ],
    "residual_post_processor": [None],
    "encode": ["gradients"],
    "combine": ["sum"],
    "exchange": ["regions", "dense", "fp16", "auto"],
    "magnitude": ["mean", "multiples"],
    "threshold_scope": ["group", "parameter"],
    "momentum_masking": [False],
    "local_steps": [3, ((0, 1), (50, 4))],
    "outer_optimizer": [Nesterov(0.7, 0.5)],
    "overlap": ["next_step"],
    "topology": ["hosts"],
}
SINGLE = [{name: value} for name, values in OPTIONS.items() for value in values]
STEPS = int(os.environ.get("PAIR_STEPS", "200"))
PAIRS = [{**one, **two} for one, two in itertools.combinations(SINGLE, 2) if one.keys() != two.keys()]


def prints(world, steps, options):
    """Train, and return the checksum of the weights after every tenth step and at the end."""
    module = make_module(seed=world.rank)
    optimizer = SharedUpdates(sgd(module, lr=0.02), world, **options)
    batches = [make_data(16, seed=10 * batch + world.rank) for batch in range(7)]
    found = []
    for step in range(steps):
        x, y = batches[step % 7]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step(examples=16)
        if step % 10 == 9:
            optimizer.synchronise()
            found.append(optimizer.fingerprint())
    return found


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
def test_ten_thousand_steps_with_the_defaults():
    found = run_ranks(prints, 2, 10_000, {}, timeout_s=250)
    assert found[0] == found[1]
    assert len(set(found[0])) > 900


@pytest.mark.exhaustive
@pytest.mark.timeout(120)
@pytest.mark.parametrize("options", PAIRS, ids=" ".join)
def test_every_two_options(options):
    try:
        found = run_ranks(prints, 2, STEPS, options, timeout_s=100)
    except ConfigurationError as error:
        refused(options, str(error))
        return
    assert found[0] == found[1]
    assert len(set(found[0])) > 0.9 * len(found[0])


def refused(options, text):
    """Two options that cannot act together are refused, naming one of them."""
    assert any(name in text for name in options), (options, text)


def test_which_pairs_are_refused():
    """Those that cannot mean anything: no more of them, and no fewer."""

    def fn(world, options):
        SharedUpdates(sgd(make_module()), world, **options)

    found = set()
    for options in PAIRS:
        try:
            run_ranks(fn, 1, options)
        except ConfigurationError:
            found.add(frozenset(options))
    codec = ("threshold_algorithm", "residual_post_processor", "magnitude", "threshold_scope", "momentum_masking")
    assert found == {
        *(frozenset((name, "exchange")) for name in (*codec, "topology")),
        frozenset(("encode", "local_steps")),
        frozenset(("encode", "outer_optimizer")),
        frozenset(("encode", "overlap")),
        frozenset(("overlap", "local_steps")),
        frozenset(("overlap", "outer_optimizer")),
    }
