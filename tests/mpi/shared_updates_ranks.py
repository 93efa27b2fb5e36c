"""What each rank runs under a launcher: so many shared steps with each set of options, one after the other.

``shared_updates_ranks.py COLLECTIVE STEPS NAME...``, where each name is one of `OPTIONS`.
Rank 0 prints one line of JSON with the checksums of all ranks' weights, for each set; `train` is also run on threads,
as the oracle.
"""

import json
import sys
import threading

import numpy as np
import torch

from hvdspark import (
    AdaptiveThresholdAlgorithm,
    FixedThresholdAlgorithm,
    Nesterov,
    QuantileThresholdAlgorithm,
    ResidualClippingPostProcessor,
    SharedUpdates,
    TargetSparsityThresholdAlgorithm,
    open_collective,
)

OPTIONS = {
    "defaults": {},
    "fixed": {"threshold_algorithm": FixedThresholdAlgorithm(1e-3)},
    "target": {"threshold_algorithm": TargetSparsityThresholdAlgorithm()},
    "quantile": {"threshold_algorithm": QuantileThresholdAlgorithm()},
    "all kept": {"residual_post_processor": None},
    "clipped": {"residual_post_processor": ResidualClippingPostProcessor(1.0, 2)},
    "gradients": {"encode": "gradients"},
    "sum": {"combine": "sum"},
    "dense": {"exchange": "dense"},
    "regions": {"exchange": "regions"},
    "fp16": {"exchange": "fp16"},
    "auto": {"exchange": "auto"},
    "mean magnitude": {"magnitude": "mean"},
    "multiples": {"magnitude": "multiples"},
    "by group": {"threshold_scope": "group"},
    "by parameter": {"threshold_scope": "parameter"},
    "unmasked": {"momentum_masking": False},
    "four local steps": {"local_steps": 4},
    "lookahead": {"local_steps": 4, "residual_lookahead": 0.5},
    "schedule": {"local_steps": ((0, 1), (40, 4))},
    "outer": {"outer_optimizer": Nesterov(0.7, 0.5)},
    "overlap": {"overlap": "next_step"},
    "hosts": {"topology": "hosts"},
    "one thread": {"num_threads": 1},
}

_SEEDING = threading.Lock()  # torch has one generator for all threads


def make_module():
    with _SEEDING:
        torch.manual_seed(11)
        return torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 5))


def train(world, steps, options, show=lambda optimizer: None):
    """Train on data of this rank's own, some of it empty; return the checksums along the way."""
    torch.set_num_threads(1)
    module = make_module()
    options = {"threshold_algorithm": AdaptiveThresholdAlgorithm(), **options}
    optimizer = SharedUpdates(torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9), world, **options)
    show(optimizer)
    random = np.random.default_rng([3, world.rank])
    prints = []
    for step in range(steps):
        x = torch.from_numpy(random.normal(size=(8, 20)).astype(np.float32))
        y = x[:, :5].argmax(dim=1)
        rows = 0 if step % 7 == world.rank else 8 - world.rank
        optimizer.zero_grad()
        if rows:
            torch.nn.functional.cross_entropy(module(x[:rows]), y[:rows]).backward()
        optimizer.step(examples=rows)
        if step % 20 == 19:
            if "residual_lookahead" in options:  # else all have the same weights here, without being asked to
                optimizer.synchronise()
            prints.append(optimizer.fingerprint())
    return prints


def train_each(world, steps, names, show=lambda optimizer: None):
    """Train with each set of options, anew; return the checksums of all."""
    return [train(world, steps, OPTIONS[name], show) for name in names]


def main():
    collective, steps, *names = sys.argv[1:]
    shown = []
    with open_collective(collective, timeout_s=60) as world:
        mine = np.array(train_each(world, int(steps), names, shown.append), np.uint32)
        gathered = world.allgather(mine.reshape(-1).view(np.uint8))
        found = [part.view(np.uint32).reshape(mine.shape).tolist() for part in gathered]
        if world.rank == 0:
            print("RESULT " + json.dumps(found), flush=True)
    print(f"CLOSED WITH {shown[-1].fingerprint()}", flush=True)


if __name__ == "__main__":
    main()
