"""A small classification problem on ranks that are threads, for the tests of synchronisers."""

import itertools
import threading

import numpy as np
import torch

from hvdspark import SharedUpdates

WIDTH, CLASSES = 12, 4


_SEEDING = threading.Lock()  # torch has one generator for all threads


def make_module(seed=0):
    with _SEEDING:
        torch.manual_seed(seed)
        return _module()


def _module():
    return torch.nn.Sequential(torch.nn.Linear(WIDTH, 16), torch.nn.Tanh(), torch.nn.Linear(16, CLASSES))


def make_data(rows, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, WIDTH, generator=generator)
    return x, (x[:, :CLASSES] + 0.3 * torch.randn(rows, CLASSES, generator=generator)).argmax(dim=1)


def sgd(module, lr=0.1, momentum=0.9, weight_decay=1e-3):
    return torch.optim.SGD(module.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)


def weights(module):
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()]).numpy().copy()


def shared_steps(world, steps, pieces, make_optimizer, **options):
    """Train `steps` steps; `pieces(step)` gives for each rank the rows of its part; return the weights."""
    module = make_module(seed=world.rank)  # ranks start apart: rank 0's weights count
    optimizer = SharedUpdates(make_optimizer(module), world, **options)
    x, y = make_data(64)
    for step in range(steps):
        rows = pieces(step)[world.rank]
        total = sum(len(part) for part in pieces(step))
        optimizer.zero_grad()
        if len(rows):
            torch.nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
        optimizer.step(examples=len(rows), total_examples=total)
    return weights(module)


def alone(steps, pieces, make_optimizer):
    """The oracle: one process, the whole batch, plain torch."""
    module = make_module(seed=0)
    optimizer = make_optimizer(module)
    x, y = make_data(64)
    for step in range(steps):
        rows = np.concatenate([np.asarray(part, dtype=np.int64) for part in pieces(step)])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
        optimizer.step()
    return weights(module)


def even(size):
    return lambda step: [np.arange(r * 8, r * 8 + 8) for r in range(size)]


def ragged(sizes):
    """Parts of these sizes, another order of sizes every step."""

    def pieces(step):
        order = sizes[step % len(sizes) :] + sizes[: step % len(sizes)]
        edges = np.cumsum([0, *order])
        return [np.arange(a, b) for a, b in itertools.pairwise(edges)]

    return pieces


def backward(module, seed=1, rows=64):
    """Leave the gradients of one batch."""
    x, y = make_data(rows, seed)
    torch.nn.functional.cross_entropy(module(x), y).backward()
