"""The loop of one rank, the same for all arms."""

import copy
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from rival import Rival
from runs import Run
from torch import nn
from traffic import Bytes
from workloads import Workload

from hvdspark.errors import NonFiniteError

__all__ = ["NUM_POINTS", "Mark", "RankResult", "train"]

NUM_POINTS = 10  # at which a run is judged, its end among them


class Mark(NamedTuple):
    """A point on the way, as one rank sees it; `loss` is None but for rank 0."""

    step: int
    loss: float | None
    traffic: Bytes


class RankResult(NamedTuple):
    """What a rank brings back."""

    marks: list[Mark]
    density: float | None
    exchanges: int


def train(
    run: Run, workload: Workload, rank: int, forward: nn.Module, optimizer: Any, traffic: Callable[[], Bytes]
) -> RankResult:
    """Train one rank, whose optimizer shares."""
    setting = run.setting
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, setting.steps)
    draw = torch.Generator().manual_seed(1000 * run.seed + rank)
    size = setting.batch // setting.ranks
    marks: list[Mark] = []

    def mark(step: int) -> None:
        loss = None if rank else workload.held_out_loss(_agreed(forward, optimizer))
        marks.append(Mark(step, loss, traffic()))

    due = {round(setting.steps * k / NUM_POINTS) for k in range(1, NUM_POINTS)} - {0, setting.steps}
    exchanges: int | None = None  # how many there were when a point came due
    for step in range(1, setting.steps + 1):
        if step in due and exchanges is None:
            exchanges = optimizer.report().exchanges
        inputs, targets = workload.batch(size, draw)
        optimizer.zero_grad()
        loss = workload.loss(forward(inputs), targets)
        if not math.isfinite(loss.item()):
            raise NonFiniteError(f"the loss is {loss.item()} at step {step}: lower the learning rate")
        torch.autograd.backward(loss)
        optimizer.step()
        if setting.schedule == "cosine":
            scheduler.step()
        if exchanges is not None and step < setting.steps and optimizer.report().exchanges > exchanges:
            exchanges = None  # between exchanges each rank has weights of its own
            mark(step)
    optimizer.synchronise()
    mark(setting.steps)
    report = optimizer.report()
    return RankResult(marks, getattr(report, "density", None), report.exchanges)


def _agreed(forward: nn.Module, optimizer: Any) -> nn.Module:
    """Return the module with the weights that ranks have agreed on; one that has looked ahead has others already."""
    period = None if isinstance(optimizer, Rival) else optimizer.state_dict()["period"]
    if period is None:
        return forward
    judged = copy.deepcopy(forward)  # `synchronise` would take the look ahead back, and change the training
    nn.utils.vector_to_parameters(period[0], judged.parameters())
    return judged
