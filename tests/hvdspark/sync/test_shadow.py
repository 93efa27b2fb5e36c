"""Law 1 over long runs of the whole engine: what was sent and what is kept is what the ranks put in.

A float64 shadow of four ranks stands beside them: what each rank's optimizer made, what its messages carried, what
clipping took. 2,000 steps each; ``SHADOW_STEPS=10000`` in the environment takes as many as that.
"""

import os
import threading
from typing import ClassVar

import numpy as np
import pytest
import torch

from contracts.problem import make_data, make_module, sgd, weights
from hvdspark import (
    FixedThresholdAlgorithm,
    ResidualClippingPostProcessor,
    SharedUpdates,
    TargetSparsityThresholdAlgorithm,
)
from hvdspark.codec import decode_into
from hvdspark.collectives import run_ranks

STEPS = int(os.environ.get("SHADOW_STEPS", "2000"))
SIZE = 4


class WatchedClipping(ResidualClippingPostProcessor):
    """Clips, and adds up in float64 what it takes, and the magnitudes of that; ranks are threads."""

    taken: ClassVar[dict[int, np.ndarray]] = {}

    def process(self, residual, iteration, threshold, num_threads=None):
        before = residual.astype(np.float64)
        mass = super().process(residual, iteration, threshold, num_threads)
        removed = before - residual
        self.taken[threading.get_ident()] += removed, np.abs(removed)
        return mass


class Shadow:
    """What a rank has put in and what has come out of it, `[n] float64`."""

    def __init__(self, world, module, optimizer):
        n = len(weights(module))
        self.put_in, self.passed_by, self.sent = np.zeros(n), np.zeros(n), np.zeros(n)
        self._gather, self._rank = world.allgather, world.rank
        world.allgather = self._listen
        self._module, self._step = module, optimizer.step

    def watch_updates(self, optimizer):
        """Note by how much each step of the rank's own optimizer moves the weights."""

        def step():
            before = weights(self._module).astype(np.float64)
            self._step()
            self._note(before - weights(self._module))

        optimizer.step = step

    def note_gradient(self):
        """Note the gradient as backward left it."""
        self._note(torch.cat([p.grad.reshape(-1) for p in self._module.parameters()]).double().numpy())

    def _note(self, vector):
        self.put_in += vector
        self.passed_by += np.abs(vector)

    def _listen(self, message):
        messages = self._gather(message)
        if bytes(message[:4]) == b"HVDS":
            out = np.zeros(self.sent.size, np.float32)
            decode_into([messages[self._rank]], out)
            self.sent += out
        return messages


def train(world, steps, encode, algorithm, post_processor):
    """Return the shadow, the residual, what clipping took and what the report says of it, and by what weights moved."""
    module = make_module()
    WatchedClipping.taken[threading.get_ident()] = np.zeros((2, len(weights(module))))
    own = sgd(module, lr=0.02)
    shadow = Shadow(world, module, own)
    if encode == "updates":
        shadow.watch_updates(own)
    optimizer = SharedUpdates(
        own,
        world,
        encode=encode,
        threshold_algorithm=algorithm,
        residual_post_processor=post_processor,
    )
    start = weights(module).astype(np.float64)
    batches = [make_data(8, seed=SIZE * batch + world.rank) for batch in range(23)]
    for step in range(steps):
        x, y = batches[step % len(batches)]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(x), y).backward()
        if encode == "gradients":
            shadow.note_gradient()
        optimizer.step()
    taken = WatchedClipping.taken.pop(threading.get_ident())
    residual = optimizer._exchange.residual.astype(np.float64)
    return shadow, residual, taken, optimizer.report().clipped_mass, start - weights(module)


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("encode", "algorithm", "post_processor"),
    [
        ("updates", TargetSparsityThresholdAlgorithm(sparsity_target=0.02), None),
        ("gradients", TargetSparsityThresholdAlgorithm(sparsity_target=0.02), None),
        ("updates", FixedThresholdAlgorithm(2e-4), WatchedClipping(2.0, 5)),  # so low that residuals outgrow it
        ("gradients", FixedThresholdAlgorithm(1e-2), WatchedClipping(2.0, 5)),
    ],
    ids=["updates", "gradients", "updates-clipped", "gradients-clipped"],
)
def test_nothing_is_lost(encode, algorithm, post_processor):
    ranks = run_ranks(train, SIZE, STEPS, encode, algorithm, post_processor, timeout_s=280)
    for shadow, residual, (taken, magnitudes), clipped_mass, _ in ranks:
        missing = shadow.put_in - shadow.sent - residual
        assert np.linalg.norm(missing - taken) <= 1e-6 * np.linalg.norm(shadow.passed_by)
        assert np.abs(residual).max() > 0
        assert np.linalg.norm(shadow.sent) > 0.1 * np.linalg.norm(shadow.put_in), "it must not all be residual"
        assert clipped_mass == pytest.approx(magnitudes.sum(), rel=1e-6)
        assert (clipped_mass > 0) == (post_processor is not None)
    if encode == "updates":  # the weights are what was sent: each of SIZE additions a step rounds to half an ulp
        moved = sum(shadow.sent for shadow, *_ in ranks) / SIZE
        assert np.abs(ranks[0][-1] - moved).max() <= STEPS * SIZE * 2.0**-25 * 4
