"""How fast the fused encode is, against ``r += g`` of the same run: the least that any encode must read and write.

Every round runs all contestants, one after the other, on the same arrays; the figures are medians over rounds, and the
ratio is the median of the ratios within a round. Only the ratio can be compared between runs.

Usage: python kernels/benchmarks/encode.py [--elements N] [--rounds K] [--threads T ...]
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark_kernels import threads
from hvdspark_kernels.jit import jit
from hvdspark_kernels.threshold import cpu

DENSITIES = (1e-2, 1e-3, 1e-4)


@jit
def _add(residual: Any, update: Any) -> Any:
    for i in range(residual.size):
        residual[i] += update[i]


def _floor(residual: NDArray[np.float32], update: NDArray[np.float32], num_threads: int) -> None:
    parts = threads.ranges(residual.size, num_threads, 64)
    threads.run(lambda begin, end: _add(residual[begin:end], update[begin:end]), parts)


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def measure(elements: int, rounds: int, num_threads: int, density: float) -> dict[str, tuple[float, float]]:
    """Return rate (10^9 elements a second) and ratio to the floor, medians over rounds, of each contestant."""
    update = np.random.default_rng(1).standard_normal(elements, dtype=np.float32)
    after = np.zeros(elements, dtype=np.float32)
    residual = np.zeros(elements, dtype=np.float32)
    codes = np.empty(elements, dtype=np.int32)
    wanted = int(elements * (1 - density))
    tau = float(np.partition(np.abs(update), wanted)[wanted])
    contestants: dict[str, Callable[[], object]] = {
        "r += g": lambda: _floor(residual, update, num_threads),
        "encode": lambda: cpu.encode(residual, update, tau, codes, num_threads),
        "encode, update checked first": lambda: (
            cpu.first_outside(update, 2.0**103, num_threads),
            cpu.encode(residual, update, tau, codes, num_threads),
        ),
        "encode_difference": lambda: cpu.encode_difference(residual, update, after, tau, codes, num_threads),
    }
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for round_number in range(rounds + 1):
        for name, call in contestants.items():
            residual.fill(0.0)  # the same share of elements is sent in every round
            taken = _seconds(call)
            if round_number:  # the first one compiles and touches the memory
                seconds[name].append(taken)
    floor = seconds["r += g"]
    return {
        name: (
            elements / statistics.median(taken) / 1e9,
            statistics.median(least / own for least, own in zip(floor, taken, strict=True)),
        )
        for name, taken in seconds.items()
    }


def main() -> None:
    """Measure and write a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=25_000_000, help="length of the arrays")
    parser.add_argument("--rounds", type=int, default=15, help="measured rounds")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, threads.default_num_threads()])
    options = parser.parse_args()
    sys.stdout.write(f"{options.elements} elements, medians of {options.rounds} rounds\n")
    sys.stdout.write(f"{'threads':>7} {'density':>8}  {'kernel':<30} {'10^9/s':>7} {'of r += g':>10}\n")
    for num_threads in sorted(set(options.threads)):
        for density in DENSITIES:
            for name, (rate, ratio) in measure(options.elements, options.rounds, num_threads, density).items():
                sys.stdout.write(f"{num_threads:>7} {density:>8.0e}  {name:<30} {rate:>7.2f} {ratio:>10.2f}\n")


if __name__ == "__main__":
    main()
