"""What `SharedUpdates` costs a step, beside the bare optimizer.

::

    mpirun -n 4 python docs/benchmarks/step.py            # nothing to send: the fixed cost, milliseconds a step
    python docs/benchmarks/step.py --model wide            # one rank, 20 million parameters: overhead in percent
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch

import hvdspark


def make(kind: str) -> tuple[torch.nn.Module, torch.Tensor, torch.Tensor]:
    """Return a module and a batch: a tiny one, or 784-4096-4096-10 with 32 rows."""
    widths = (16, 16, 4) if kind == "tiny" else (784, 4096, 4096, 10)
    layers: list[torch.nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [torch.nn.Linear(inputs, outputs), torch.nn.ReLU()]
    module = torch.nn.Sequential(*layers[:-1])
    rows = 32 if kind == "wide" else 8
    return module, torch.randn(rows, widths[0]), torch.randint(widths[-1], (rows,))


def seconds(step: Callable[[], None], rounds: int) -> float:
    """Time so many calls; return the seconds of one."""
    begin = time.perf_counter()
    for _ in range(rounds):
        step()
    return (time.perf_counter() - begin) / rounds


def main() -> None:
    """Measure in turn, round after round; rank 0 prints medians and the median of the ratios of a round."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("tiny", "wide"), default="tiny")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    calls = 100 if options.model == "tiny" else 2
    with hvdspark.open_collective("auto") as world:
        contestants = {}
        for name in ("bare", "shared"):
            module, x, y = make(options.model)
            optimizer = torch.optim.SGD(module.parameters(), lr=0.0 if options.model == "tiny" else 1e-3, momentum=0.9)
            if name == "shared":
                optimizer = hvdspark.SharedUpdates(optimizer, world, verify_every=0)

            def step(module=module, x=x, y=y, optimizer=optimizer) -> None:  # type: ignore[no-untyped-def]
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(module(x), y).backward()
                optimizer.step()

            contestants[name] = step
        taken: dict[str, list[float]] = {name: [] for name in contestants}
        for number in range(options.rounds + 1):
            for name in contestants if number % 2 else reversed(contestants):
                world.barrier()
                taken[name].append(seconds(contestants[name], calls))
        if world.rank == 0:
            bare, shared = taken["bare"][1:], taken["shared"][1:]
            difference = statistics.median(b - a for a, b in zip(bare, shared, strict=True))
            ratio = statistics.median(b / a for a, b in zip(bare, shared, strict=True))
            print(
                f"{world.size} ranks: bare {1e3 * statistics.median(bare):.3f} ms, "
                f"shared {1e3 * statistics.median(shared):.3f} ms a step: {1e3 * difference:+.3f} ms, x {ratio:.3f}"
            )


if __name__ == "__main__":
    main()
