"""Bytes that a rank sends and receives a step, by number of ranks: every message to all, or through owners of regions.

Each rank is a thread of this process and trains the language model of the study, with a batch of 256 among all
ranks. What is counted are messages as they leave and reach a rank: one that goes to all leaves N - 1 times.

Usage: python docs/benchmarks/regions.py [--ranks 4 16] [--steps N] [--rates R ...] [--seeds N]
"""

import argparse
import copy
import statistics
import sys
from typing import NamedTuple

import torch
from study.text import CONTEXT, Text, network, read_text, windows
from torch import nn
from torch.optim import SGD

from hvdspark import SharedUpdates, TargetSparsityThresholdAlgorithm
from hvdspark.collectives import Collective, run_ranks

TOTAL_BATCH = 256


class Run(NamedTuple):
    """What was chosen for one training."""

    exchange: str
    ranks: int
    rate: float
    seed: int
    steps: int
    hidden: int


class Outcome(NamedTuple):
    """Loss on what is held out, in nats a byte; bytes that one rank sent and received, mean over steps."""

    loss: float
    sent: float
    received: float


class Counter:
    """Counts what messages of a collective carry to and from this rank."""

    def __init__(self, world: Collective) -> None:
        self.sent = self.received = 0
        self._world, self._allgather, self._alltoall = world, world.allgather, world.alltoall
        world.allgather, world.alltoall = self.allgather, self.alltoall  # type: ignore[method-assign]

    def _note(self, found):  # type: ignore[no-untyped-def]
        self.received += sum(message.size for rank, message in enumerate(found) if rank != self._world.rank)
        return found

    def allgather(self, message):  # type: ignore[no-untyped-def]
        """Do it, and count."""
        self.sent += (self._world.size - 1) * message.size
        return self._note(self._allgather(message))

    def alltoall(self, messages):  # type: ignore[no-untyped-def]
        """Do it, and count."""
        self.sent += sum(message.size for rank, message in enumerate(messages) if rank != self._world.rank)
        return self._note(self._alltoall(messages))


def train_rank(world: Collective, run: Run, text: Text, start: nn.Module) -> Outcome:
    """Train one rank."""
    torch.set_num_threads(1)
    model = copy.deepcopy(start)
    optimizer = SharedUpdates(
        SGD(model.parameters(), lr=run.rate, momentum=0.9), world, exchange=run.exchange,
        threshold_algorithm=TargetSparsityThresholdAlgorithm(), residual_post_processor=None, verify_every=0,
    )  # fmt: skip
    counter = Counter(world)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, run.steps)
    draw = torch.Generator().manual_seed(1000 * run.seed + world.rank)
    batch = TOTAL_BATCH // world.size
    for _ in range(run.steps):
        begin = torch.randint(len(text.train) - CONTEXT, (batch,), generator=draw)
        contexts, answers = windows(text.train, begin)
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(contexts), answers))
        optimizer.step()
        scheduler.step()
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(text.contexts), text.answers).item()
    return Outcome(loss, counter.sent / run.steps, counter.received / run.steps)


def measure(run: Run, text: Text) -> Outcome:
    """Train, and return the mean over ranks."""
    torch.manual_seed(run.seed)
    found = run_ranks(train_rank, run.ranks, run, text, network(run.hidden), timeout_s=3600)
    outcome = Outcome(*(statistics.mean(each) for each in zip(*found, strict=True)))
    print(f"{run}: {outcome}", file=sys.stderr, flush=True)
    return outcome


def main() -> None:
    """Print the table, and each run to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", nargs="+", type=int, default=[4, 16])
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--rates", nargs="+", type=float, default=[0.4, 0.8], help="the best one counts")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--hidden", type=int, default=256, help="the model has 4,352 + 417 x this parameters")
    options = parser.parse_args()
    seeds = range(options.seeds)
    text = read_text()
    print("| ranks | exchange | loss | each seed | rate | sent | received |", flush=True)
    print("|---|---|---|---|---|---|---|", flush=True)
    for ranks in options.ranks:
        for exchange in ("codec", "regions"):
            tried = {
                rate: [measure(Run(exchange, ranks, rate, seed, options.steps, options.hidden), text) for seed in seeds]
                for rate in options.rates
            }
            rate = min(tried, key=lambda rate: statistics.mean(each.loss for each in tried[rate]))
            losses = [each.loss for each in tried[rate]]
            sent, received = (statistics.mean(each[i] for each in tried[rate]) for i in (1, 2))
            each = ", ".join(f"{loss:.3f}" for loss in losses)
            row = f"{statistics.mean(losses):.3f} | {each} | {rate:g} | {sent:,.0f} | {received:,.0f}"
            print(f"| {ranks} | {exchange} | {row} |", flush=True)


if __name__ == "__main__":
    main()
