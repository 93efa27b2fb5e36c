"""What sharing costs in loss: each way to share on one small language model, each with its own learning rate.

Every arm trains the same network on four ranks, threads of this process, with batches of 64 each: it guesses the next
byte of the Python interpreter's own library sources from the ten before. Loss is that of sources held out. A learning
rate that suits one arm may ruin another, so that each tries three, a factor of two apart, and goes on where the best is
the first or the last. Rates are chosen with the first seed and kept for the others.

Usage: python docs/benchmarks/convergence.py [--arms 'momentum/*' ...] [--steps N] [--seeds N] [--schedule constant]
"""

import argparse
import contextlib
import copy
import fnmatch
import functools
import hashlib
import math
import statistics
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TextIO

import torch
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from hvdspark import Nesterov, ParameterAveraging, SharedUpdates, TargetSparsityThresholdAlgorithm
from hvdspark.collectives import Collective, run_ranks
from hvdspark.errors import NonFiniteError, RankLost
from hvdspark.sync import Synchroniser, SyncReport

RANKS, BATCH, CONTEXT = 4, 64, 10
EMBEDDING, HIDDEN = 16, 256  # 111,104 parameters

# each takes options, and returns what takes an optimizer and a collective
_shared = functools.partial(functools.partial, SharedUpdates)
_averaging = functools.partial(functools.partial, ParameterAveraging, averaging_frequency=10)
_denser, _densest = (TargetSparsityThresholdAlgorithm("auto", share) for share in (1e-2, 3e-2))
_local_mean = functools.partial(_shared, local_steps=10, threshold_algorithm=_denser, magnitude="mean")
_outer = Nesterov(0.7, 0.5)

Mode = Callable[[Optimizer, Collective], Synchroniser]
#: Ways to share that are tried with every optimizer.
BASIC: dict[str, Mode] = {
    "dense": _shared(exchange="dense", encode="gradients"),
    "codes": _shared(),
    "codes mean": _shared(magnitude="mean"),
    "gradient codes": _shared(encode="gradients"),
    "gradient codes mean": _shared(encode="gradients", magnitude="mean"),
    "average 10": _averaging(save_updater=True),
    "local 10 codes 1e-2 mean": _local_mean(),
}
#: Further ways with momentum, and with Adam. Momentum is linear in the gradient: its dense updates would be as dense.
MOMENTUM: dict[str, Mode] = {
    "codes unmasked": _shared(momentum_masking=False),
    "codes late": _shared(overlap="next_step"),
    "dense late": _shared(exchange="dense", overlap="next_step"),
    "average 10 own state": _averaging(save_updater=False),
    "average 10 outer": _averaging(save_updater=False, outer_optimizer=_outer),
    "local 10 codes": _shared(local_steps=10),
    "local 10 codes mean": _shared(local_steps=10, magnitude="mean"),
    "local 10 codes 1e-2": _shared(local_steps=10, threshold_algorithm=_denser),
    "local 10 codes 3e-2 mean": _local_mean(threshold_algorithm=_densest),
    "local 10 codes 1e-2 mean masked": _local_mean(momentum_masking=True),
    "local 10 codes 1e-2 mean outer": _local_mean(outer_optimizer=_outer),
}
ADAM: dict[str, Mode] = {"dense updates": _shared(exchange="dense")}
ADAM["local 10 codes 3e-2 mean"] = MOMENTUM["local 10 codes 3e-2 mean"]
#: By optimizer: how it is made, the rate in the middle of the first three, and what is tried.
OPTIMIZERS: dict[str, tuple[Callable[..., Optimizer], float, dict[str, Mode]]] = {
    "momentum": (functools.partial(SGD, momentum=0.9), 0.4, BASIC | MOMENTUM),
    "adam": (Adam, 8e-3, BASIC | ADAM),
    "sgd": (SGD, 2.0, BASIC),
    "adamw": (AdamW, 8e-3, BASIC),
}
ARMS = [f"{optimizer}/{mode}" for optimizer, (_, _, modes) in OPTIMIZERS.items() for mode in modes]


class Text(NamedTuple):
    """Bytes to train on (``[n] uint8``), and contexts (``[m, CONTEXT]``) and answers (``[m]``) held out, int64."""

    train: torch.Tensor
    contexts: torch.Tensor
    answers: torch.Tensor


class Run(NamedTuple):
    """What was chosen for one training."""

    arm: str
    rate: float
    seed: int
    steps: int
    schedule: str


def read_text() -> Text:
    """Read the sources of the standard library without tests; every tenth file is held out."""
    root = Path(sysconfig.get_path("stdlib"))
    folders = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
    files = [file for file in sorted(root.rglob("*.py")) if not folders & set(file.relative_to(root).parts)]
    texts = [file.read_bytes() for file in files]
    held_out, train = b"".join(texts[::10]), b"".join(text for i, text in enumerate(texts) if i % 10)
    digest = hashlib.sha256(train + held_out).hexdigest()
    say(f"{len(train):,} bytes to train on, {len(held_out):,} held out, sha256 {digest[:12]}", sys.stderr)
    start = torch.randint(len(held_out) - CONTEXT, (16_384,), generator=torch.Generator().manual_seed(0))
    train_on, held = (torch.frombuffer(bytearray(text), dtype=torch.uint8) for text in (train, held_out))
    return Text(train_on, *windows(held, start))


def windows(text: torch.Tensor, start: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the contexts that begin at `start` (``[m] int64``) and the byte after each."""
    return text[start[:, None] + torch.arange(CONTEXT)].long(), text[start + CONTEXT].long()


def build(seed: int) -> nn.Module:
    """Make the network, the same for the same seed: not in a rank's thread, since all share torch's generator."""
    torch.manual_seed(seed)
    layers = nn.Linear(CONTEXT * EMBEDDING, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 256)
    return nn.Sequential(nn.Embedding(256, EMBEDDING), nn.Flatten(), *layers)


def train_rank(world: Collective, run: Run, text: Text, start: nn.Module) -> tuple[float, SyncReport]:
    """Train one rank; return the loss on what is held out, in nats a byte, and what was sent."""
    torch.set_num_threads(1)  # more ranks than cores: further threads would only wait for each other
    name, mode = run.arm.split("/")
    make, _, modes = OPTIMIZERS[name]
    model = copy.deepcopy(start)  # the ranks share this process, not their weights
    optimizer = modes[mode](make(model.parameters(), lr=run.rate), world)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, run.steps)
    draw = torch.Generator().manual_seed(1000 * run.seed + world.rank)
    for _ in range(run.steps):
        contexts, answers = windows(text.train, torch.randint(len(text.train) - CONTEXT, (BATCH,), generator=draw))
        optimizer.zero_grad()
        torch.autograd.backward(nn.functional.cross_entropy(model(contexts), answers))
        optimizer.step()
        if run.schedule == "cosine":
            scheduler.step()
    optimizer.synchronise()
    with torch.no_grad():  # all ranks have the same weights
        return nn.functional.cross_entropy(model(text.contexts), text.answers).item(), optimizer.report()


def measure(run: Run, text: Text) -> tuple[float, SyncReport | None]:
    """Train once; the loss is infinite, and there is no report, if it diverges."""
    began, loss, report = time.monotonic(), math.inf, None
    with contextlib.suppress(NonFiniteError, RankLost):  # which of them depends on whose rank's thread is first
        loss, report = run_ranks(train_rank, RANKS, run, text, build(run.seed), timeout_s=3600)[0]
    say(f"{run}: {loss:.4f} in {time.monotonic() - began:.0f} s; {report}", sys.stderr)
    return (loss, report) if math.isfinite(loss) else (math.inf, None)


def tune(loss_at: Callable[[float], float], middle: float) -> float:
    """Return the best of at least three rates, a factor of two apart, and at most six."""
    found = {rate: loss_at(rate) for rate in (middle / 2, middle, middle * 2)}
    while len(found) < 6 and (best := min(found, key=found.__getitem__)) in (min(found), max(found)):
        beyond = best / 2 if best == min(found) else best * 2
        found[beyond] = loss_at(beyond)
    return min(found, key=found.__getitem__)


def row(arm: str, text: Text, options: argparse.Namespace) -> str:
    """Tune and measure an arm; return its row of the table."""

    @functools.cache  # the first seed has already run at the rate that is chosen
    def measured(rate: float, seed: int) -> tuple[float, SyncReport | None]:
        return measure(Run(arm, rate, seed, options.steps, options.schedule), text)

    rate = tune(lambda rate: measured(rate, 0)[0], OPTIMIZERS[arm.partition("/")[0]][1])
    losses = [measured(rate, seed)[0] for seed in range(options.seeds)]
    report = measured(rate, 0)[1]  # bytes and density are the first seed's
    sent = "diverges |" if report is None else f"1/{report.dense_bytes / report.bytes_sent:,.4g} | {report.density:.1e}"
    each = ", ".join(f"{loss:.3f}" for loss in losses)
    return f"| {arm} | {statistics.mean(losses):.3f} | {each} | {rate:g} | {sent} |"


def say(line: str, where: TextIO) -> None:
    """Print a line at once: a table takes long."""
    print(line, file=where, flush=True)


def main() -> None:
    """Print the table, and each run to standard error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arms", nargs="+", default=["*"], help="names or patterns of: " + ", ".join(ARMS))
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--seeds", type=int, default=2, help="how many, the first of which chooses the rate")
    parser.add_argument("--schedule", choices=["cosine", "constant"], default="cosine")
    options = parser.parse_args()
    text = read_text()
    say("| arm | nats a byte | each seed | rate | bytes | density |\n|---|---|---|---|---|---|", sys.stdout)
    for arm in ARMS:
        if any(fnmatch.fnmatch(arm, pattern) for pattern in options.arms):
            say(row(arm, text, options), sys.stdout)


if __name__ == "__main__":
    main()
