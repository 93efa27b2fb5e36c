"""What each rank runs under a launcher: 200 shared steps. ``shared_updates_ranks.py COLLECTIVE OPTIONS``.

Rank 0 prints one line of JSON with the checksums of all ranks' weights; `train` is also run on threads, as the oracle.
"""

import json
import sys
import threading

import numpy as np
import torch

from hvdspark import AdaptiveThresholdAlgorithm, SharedUpdates, open_collective

_SEEDING = threading.Lock()  # torch has one generator for all threads


def make_module():
    with _SEEDING:
        torch.manual_seed(11)
        return torch.nn.Sequential(torch.nn.Linear(20, 64), torch.nn.ReLU(), torch.nn.Linear(64, 5))


def train(world, steps, options, show=lambda optimizer: None):
    """Train on data of this rank's own, some of it empty; return the checksums along the way."""
    torch.set_num_threads(1)
    module = make_module()
    optimizer = SharedUpdates(
        torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9),
        world,
        threshold_algorithm=AdaptiveThresholdAlgorithm(),
        **options,
    )
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
            prints.append(optimizer.fingerprint())
    return prints


def main():
    name, options = sys.argv[1], json.loads(sys.argv[2])
    shown = []
    with open_collective(name, timeout_s=60) as world:
        mine = np.array(train(world, 200, options, shown.append), np.uint32)
        all_prints = [part.view(np.uint32).tolist() for part in world.allgather(mine.view(np.uint8))]
        if world.rank == 0:
            print("RESULT " + json.dumps(all_prints), flush=True)
    print(f"CLOSED WITH {shown[0].fingerprint()}", flush=True)


if __name__ == "__main__":
    main()
