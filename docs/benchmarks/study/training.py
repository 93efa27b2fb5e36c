"""One training, in threads of this process or, for PowerSGD, in processes: what it came to, and what it cost."""

import copy
import math
import statistics

import powersgd
import torch
from arms import OPTIMIZERS, Arm
from loop import RankResult, train
from runs import Outcome, Point, Run
from torch import nn
from traffic import Traffic
from workloads import Workload

from hvdspark.collectives import Collective, run_ranks
from hvdspark.errors import NonFiniteError, RankLost

__all__ = ["measure"]

_TIMEOUT_S = 4 * 3600


def measure(run: Run, arm: Arm, workload: Workload) -> Outcome:
    """Train once; there are no points if it diverges."""
    start = workload.build(run.seed)
    try:
        if arm.method == "powersgd":
            found = powersgd.train_processes(run, workload, start, _TIMEOUT_S, arm.options)
        else:
            found = run_ranks(_train_rank, run.setting.ranks, run, arm, workload, start, timeout_s=_TIMEOUT_S)
    except (NonFiniteError, RankLost):  # which of them depends on whose rank's thread is first
        return Outcome([])
    return _joined(found)


def _train_rank(world: Collective, run: Run, arm: Arm, workload: Workload, start: nn.Module) -> RankResult:
    torch.set_num_threads(1)  # more ranks than cores: further threads would only wait for each other
    model = copy.deepcopy(start)  # the ranks share this process, not their weights
    own = OPTIMIZERS[run.setting.optimizer](model.parameters(), lr=run.rate)
    optimizer = arm.wrap(own, world, run.setting.steps)
    return train(run, workload, world.rank, model, optimizer, Traffic(world).bytes)


def _joined(found: list[RankResult]) -> Outcome:
    """Take the loss of rank 0, whose weights are those of all, and the mean of the bytes."""
    points = []
    for marks in zip(*(result.marks for result in found), strict=True):
        loss = marks[0].loss
        if loss is None or not math.isfinite(loss):
            return Outcome([])
        sent, wire = (statistics.mean(values) for values in zip(*(mark.traffic for mark in marks), strict=True))
        points.append(Point(marks[0].step, loss, sent, wire))
    return Outcome(points, found[0].density, found[0].exchanges)
