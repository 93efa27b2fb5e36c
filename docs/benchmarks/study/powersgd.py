"""A rival: PowerSGD, torch's own hook under DistributedDataParallel, in a process a rank, over gloo.

Vogels et al., "PowerSGD", NeurIPS 2019. Bytes are those of the arrays that it reduces, as they are handed to torch,
dense first steps included.
"""

import copy
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
import torch.distributed as dist
from arms import OPTIMIZERS
from loop import RankResult, train
from rival import Rival
from runs import Run
from torch import multiprocessing, nn
from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as powersgd_hook
from torch.nn.parallel import DistributedDataParallel
from traffic import Bytes, ring_bytes
from workloads import Workload

from hvdspark.errors import CollectiveError, NonFiniteError

__all__ = ["train_processes"]


def train_processes(
    run: Run, workload: Workload, module: nn.Module, timeout_s: float, options: Mapping[str, Any]
) -> list[RankResult]:
    """Train on as many processes as there are ranks; the options are `rank` of the matrices, `start`: first such step.

    Raises
    ------
    NonFiniteError
        It diverges.
    CollectiveError
        The time is up.
    """
    results = multiprocessing.get_context("spawn").SimpleQueue()
    deadline = time.monotonic() + timeout_s
    with tempfile.TemporaryDirectory() as folder:
        given = (Path(folder, "store").as_uri(), run, workload, module, dict(options), results)
        before, os.environ["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS"), "1"
        try:
            ranks = multiprocessing.spawn(_live, given, run.setting.ranks, join=False, daemon=True)
        finally:
            del os.environ["OMP_NUM_THREADS"]
            if before is not None:
                os.environ["OMP_NUM_THREADS"] = before
        try:
            found = _collect(ranks, results, run.setting.ranks, deadline)
        finally:
            for process in ranks.processes:
                process.kill()
                process.join()
    return [found[rank] for rank in sorted(found)]


def _collect(ranks: Any, results: Any, size: int, deadline: float) -> dict[int, RankResult]:
    found: dict[int, RankResult] = {}
    while len(found) < size:
        if time.monotonic() > deadline:
            raise CollectiveError(f"PowerSGD: {size - len(found)} of {size} ranks did not end in time")
        try:
            ranks.join(timeout=0.1)
        except multiprocessing.ProcessRaisedException as error:
            if NonFiniteError.__name__ in str(error) or _has_diverged(results):
                raise NonFiniteError("PowerSGD diverged: lower the learning rate") from None
            raise
        while not results.empty():
            rank, result = results.get()
            if result is None:
                raise NonFiniteError("PowerSGD diverged: lower the learning rate")
            found[rank] = result
    return found


def _has_diverged(results: Any) -> bool:
    while not results.empty():
        if results.get()[1] is None:
            return True
    return False


def _live(rank: int, store: str, run: Run, workload: Workload, module: nn.Module, options: Any, results: Any) -> None:
    """Be one rank; runs in a process of its own."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=run.setting.ranks)
    try:
        result = _train_rank(rank, run, workload, module, **options)
    except NonFiniteError:
        results.put((rank, None))
        raise
    results.put((rank, result))
    dist.barrier()  # who leaves first breaks the others' connections
    dist.destroy_process_group()


def _train_rank(
    number: int, run: Run, workload: Workload, module: nn.Module, *, rank: int, start: int
) -> RankResult:  # `rank` is that of the matrices here
    state = powersgd_hook.PowerSGDState(None, matrix_approximation_rank=rank, start_powerSGD_iter=start)
    module = copy.deepcopy(module)  # what came from the parent lies in memory that all ranks share
    model = DistributedDataParallel(module)
    model.register_comm_hook(state, powersgd_hook.powerSGD_hook)
    counter = _Counter(run.setting.ranks)
    optimizer = OPTIMIZERS[run.setting.optimizer](module.parameters(), lr=run.rate)
    return train(run, workload, number, model, _Joined(optimizer), counter.bytes)


@final
class _Joined(Rival):
    """Takes the steps of an optimizer whose gradients have been joined while they were made."""

    def _step(self) -> None:
        self._optimizer.step()


class _Counter:
    """Counts what this process reduces from now on: torch's hook, too, goes through `all_reduce`."""

    def __init__(self, size: int) -> None:
        self._size, self._sent = size, 0
        self._all_reduce = dist.all_reduce
        dist.all_reduce = self._counted

    def _counted(self, tensor: torch.Tensor, *options: Any, **more: Any) -> Any:
        self._sent += tensor.numel() * tensor.element_size()
        return self._all_reduce(tensor, *options, **more)

    def bytes(self) -> Bytes:
        """Return what was reduced so far."""
        return Bytes(self._sent, ring_bytes(self._sent, self._size))
