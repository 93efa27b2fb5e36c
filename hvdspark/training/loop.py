"""The training loop of one rank: forward, backward, a shared step; a mean over all examples at the end of an epoch."""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau

from hvdspark.codec import EncodingRecord
from hvdspark.collectives import Collective
from hvdspark.data import Batch, Batches, Plan, Portion
from hvdspark.errors import ConfigurationError, ModelError
from hvdspark.events import EventLog
from hvdspark.sync import Synchroniser, mean_buffers_
from hvdspark.sync.phases import Phases
from hvdspark.training.checkpointer import Checkpointer, Progress, Trained
from hvdspark.training.early_stopping import Stopping
from hvdspark.training.garbage import collecting_every
from hvdspark.training.hooks import Moment
from hvdspark.training.job import Job, RankReport
from hvdspark.training.recording import Recording

__all__ = ["Trainer"]

_PROGRESS_INTERVAL_S = 0.2


class Trainer:
    """Trains a job's network as one of the ranks.

    Parameters
    ----------
    job : Job
        What to do, equal on all ranks.
    world : Collective
        The ranks.
    events : EventLog
        Where this rank records what it does.
    device : torch.device
        Where this rank computes.
    num_threads : int
        Threads of the codec.
    train : Portion
        What to train on.
    validation : Portion, optional
        What to score after each epoch.
    """

    def __init__(
        self,
        job: Job,
        world: Collective,
        events: EventLog,
        device: torch.device,
        num_threads: int,
        train: Portion,
        validation: Portion | None,
    ) -> None:
        self._job = job
        self._world = world
        self._events = events
        self._device = device
        self._phases = Phases()
        self._recording = Recording(job.run_directory, world) if job.collect_stats else None
        self._network = job.network
        self._module = job.network.module.to(device)
        if isinstance(job.network.loss, torch.nn.Module):
            job.network.loss.to(device)  # it may hold the weights of classes
        self._optimizer = self._synchroniser(num_threads)
        self._scheduler = self._make_scheduler()
        self._train = train
        job.network.check_roles([field.role for field in train.groups.fields])
        self._validation = validation
        self._checkpoints = Checkpointer(
            job, world, events, Trained(self._module, self._optimizer, self._scheduler, device)
        )
        self._stopping = self._make_stopping()
        self._stop_reason = ""
        self._best_epoch: int | None = None
        self._examples = 0
        self._steps = 0
        self._history: list[dict[str, Any]] = []
        if self._recording is not None:
            self._recording.begin(self._phases, self._optimizer)
        self._last_progress = 0.0

    def _synchroniser(self, num_threads: int) -> Synchroniser:
        own = self._network.optimizer(self._module.parameters())
        if not isinstance(own, torch.optim.Optimizer):
            raise ModelError(f"Network.optimizer returned a {type(own).__name__}, not a torch.optim.Optimizer")
        named = self._module.named_parameters()
        return self._job.sharing.wrap(own, self._world, named, num_threads, self._record_encoding)

    def _record_encoding(self, record: EncodingRecord) -> None:
        self._events.write("encoding", **record.as_event())

    def _make_scheduler(self) -> torch.optim.lr_scheduler.LRScheduler | None:
        if self._network.lr_scheduler is None:
            return None
        scheduler = self._network.lr_scheduler(self._optimizer)
        if isinstance(scheduler, ReduceLROnPlateau) and self._network.scheduler_interval == "step":
            raise ConfigurationError(
                'Network.scheduler_interval="step" cannot act with ReduceLROnPlateau, which looks at an epoch\'s score'
            )
        return scheduler

    def _make_stopping(self) -> Stopping | None:
        job = self._job
        if job.early_stopping is None:
            return None
        kept = job.checkpoint.keep if job.checkpoint is not None else 0
        return Stopping(job.early_stopping, job.run_directory, job.epochs, self._world, self._module, kept)

    def train(self) -> RankReport:
        """Run all epochs and report; every rank takes the same steps. The module is left in the mode that it was in."""
        self._events.write("start", host=self._world.host, size=self._world.size, device=str(self._device))
        was_training = self._module.training
        try:
            with collecting_every(self._job.gc_interval_ms, self._phases.timed) as self._collect_garbage:
                self._run_epochs()
        finally:
            self._module.train(was_training)
        self._optimizer.verify()
        if self._recording is not None:
            self._recording.end()
        sync = self._optimizer.report()
        report = RankReport(
            rank=self._world.rank,
            host=self._world.host,
            steps=self._steps,
            exchanges=sync.exchanges,
            examples=self._examples,
            history=tuple(self._history),
            bytes_sent=sync.bytes_sent,
            dense_bytes=sync.dense_bytes,
            density=sync.density,
            threshold=sync.threshold,
            clipped_mass=sync.clipped_mass,
            seconds={**self._phases.seconds, **sync.seconds},
            fingerprint=self._optimizer.fingerprint(),
            best_epoch=self._best_epoch,
            stop_reason=self._stop_reason,
        )
        self._events.write("end", steps=self._steps, examples=self._examples, bytes_sent=sync.bytes_sent)
        return report

    # ---- an epoch ----------------------------------------------------------------------------------------------

    def _run_epochs(self) -> None:
        """Go on where the job says, and save when it says."""
        start = self._checkpoints.restore()
        self._steps, self._examples, self._history = start.steps, start.examples, start.history
        step, loss_sum = start.step, start.loss_sum
        if self._stopping is not None and self._history:
            self._stop_reason = self._stopping.go_on(self._history, step)
        for epoch in range(start.epoch, self._job.epochs):
            if self._stop_reason:
                break
            self._history.append(self._epoch(epoch, step, loss_sum))
            step, loss_sum = 0, 0.0
            if self._stopping is not None and self._stopping.is_due(epoch):
                self._stop_reason = self._stopping.look(self._history)
            if self._checkpoints.is_due_after_epoch(epoch + 1):
                self._save(epoch + 1, step, loss_sum)
        if self._stopping is not None:
            self._best_epoch = self._stopping.restore_best(self._history)

    def _save(self, epoch: int, step: int, loss_sum: float) -> None:
        progress = Progress(
            epoch=epoch, step=step, loss_sum=loss_sum, steps=self._steps, examples=self._examples, history=self._history
        )
        with self._phases.timed("checkpoint"):
            self._checkpoints.save(progress)
        if self._stopping is not None:
            self._stopping.checkpointed(self._history)

    def _epoch(self, epoch: int, start_step: int, loss_so_far: float) -> dict[str, Any]:
        """Train an epoch from a step on, given this rank's sum of losses in the steps before it."""
        begin = time.perf_counter()
        self._module.train()
        batches = self._batches(
            self._train, epoch=epoch, shuffle=self._job.shuffle, drop_last=self._job.drop_last, start_step=start_step
        )
        self._tell("on_epoch_start", epoch)
        loss_sum = torch.tensor(loss_so_far, dtype=torch.float64)
        timed = self._timed(batches)
        for batch in timed if self._recording is None else self._recording.stepping(timed):
            loss_sum += self._step(batch, epoch)
            self._progress(epoch, batches.step, start_step + len(batches))
            if self._checkpoints.is_due_after_step(self._steps):
                self._save(epoch, batches.step, loss_sum.item())
        self._optimizer.synchronise()  # steps left over: nothing of an epoch is skipped, and all score the same weights
        with self._phases.timed("epoch_end"):
            if self._job.buffers == "mean":
                mean_buffers_(self._module, self._world)
            record = {"epoch": epoch, "score": self._mean_over_ranks(loss_sum, batches.plan)}
        if self._job.drop_last:
            record["dropped"] = self._train.num_rows - batches.plan.num_examples
        is_due = self._stopping is None or self._stopping.is_due(epoch)
        if self._validation is not None and is_due:
            with self._phases.timed("validate"):
                record["validation_score"] = self._validate(self._validation)
        score = record.get("validation_score", record["score"])
        if is_due or not isinstance(self._scheduler, ReduceLROnPlateau):  # it compares like with like
            self._step_scheduler("epoch", score)
        record["seconds"] = time.perf_counter() - begin
        self._events.write("epoch", **record)
        self._tell("on_epoch_end", epoch, score=score)
        return record

    def _tell(self, what: str, epoch: int, batch: Batch | None = None, score: float = math.nan) -> None:
        """Call one of the methods of hooks or listeners, where there are any."""
        told = self._job.hooks if what.endswith("_update") else self._job.listeners
        if told:
            moment = Moment(
                rank=self._world.rank, size=self._world.size, epoch=epoch, step=self._steps, module=self._module,
                batch=batch, score=score,
            )  # fmt: skip
            with self._phases.timed("hooks"):
                for each in told:
                    getattr(each, what)(moment)

    def _batches(
        self, data: Portion, *, epoch: int, shuffle: bool, drop_last: bool = False, start_step: int = 0
    ) -> Batches:
        plan = data.plan(
            size=self._world.size,
            batch_size=self._job.batch_size,
            seed=self._job.seed,
            epoch=epoch,
            shuffle=shuffle,
            drop_last=drop_last,
        )
        return Batches(
            data.groups,
            plan,
            self._world.rank,
            start_step=start_step,
            prefetch=self._job.prefetch,
            pin_memory=self._device.type == "cuda",
        )

    def _timed(self, batches: Batches) -> Iterator[Batch]:
        """Yield the batches, counting the time that is spent waiting for them."""
        iterator = iter(batches)
        while True:
            with self._phases.timed("load"):
                batch = next(iterator, None)
            if batch is None:
                return
            yield batch

    def _step(self, batch: Batch, epoch: int) -> torch.Tensor:
        """Take one step; return this rank's sum of losses. A rank without rows runs no forward."""
        self._optimizer.zero_grad()
        loss_sum = torch.zeros((), dtype=torch.float64)
        if batch.examples:
            with self._phases.timed("forward_backward"):
                with _explained(batch):
                    loss = self._loss(batch)
                penalty = self._network.penalty()
                torch.autograd.backward(loss if penalty is None else loss + penalty)
                loss_sum += loss.detach().cpu() * batch.examples
        self._tell("pre_update", epoch, batch)
        self._optimizer.step(examples=batch.examples, total_examples=batch.total_examples)
        self._tell("post_update", epoch, batch)
        if self._job.listeners:  # a GPU is waited for only where somebody listens
            score = loss_sum.item() / batch.examples if batch.examples else math.nan
            self._tell("iteration_done", epoch, batch, score)
        self._step_scheduler("step")
        self._steps += 1
        self._examples += batch.examples
        self._collect_garbage()
        time.sleep(self._job.longer_iterations_ms / 1000)
        return loss_sum

    def _step_scheduler(self, interval: str, score: float = math.nan) -> None:
        if self._scheduler is None or self._network.scheduler_interval != interval:
            return
        if isinstance(self._scheduler, ReduceLROnPlateau):
            self._scheduler.step(score)
        else:
            self._scheduler.step()

    def _loss(self, batch: Batch) -> torch.Tensor:
        move = functools.partial(_moved, device=self._device)
        output = self._network.emit(move(batch.features), move(batch.features_mask))
        labels, mask, weights = move(batch.labels), move(batch.labels_mask), move(batch.weights)
        return self._network.score(output, labels, labels_mask=mask, weights=weights)

    def _validate(self, data: Portion) -> float:
        self._module.eval()
        batches = self._batches(data, epoch=0, shuffle=False)
        loss_sum = torch.zeros((), dtype=torch.float64)
        with torch.no_grad():  # not inference_mode: a module may keep a tensor of this pass for the next training pass
            for batch in batches:
                if batch.examples:
                    loss_sum += self._loss(batch).cpu() * batch.examples
        return self._mean_over_ranks(loss_sum, batches.plan)

    def _mean_over_ranks(self, loss_sum: torch.Tensor, plan: Plan) -> float:
        total = np.array([loss_sum.item()], np.float64)
        self._world.allreduce_(total)
        mean: float = float(total[0]) / plan.num_examples
        return mean

    def _progress(self, epoch: int, taken: int, num_steps: int) -> None:
        now = time.monotonic()
        if self._world.rank == 0 and (now - self._last_progress > _PROGRESS_INTERVAL_S or taken == num_steps):
            self._last_progress = now
            self._events.write("progress", epoch=epoch, step=taken, num_steps=num_steps)


@contextlib.contextmanager
def _explained(batch: Batch) -> Iterator[None]:
    """Say what to do where batch normalisation gets a single row."""
    try:
        yield
    except ValueError as error:
        if batch.examples != 1 or "more than 1 value per channel" not in str(error):
            raise
        fix = "train with drop_last=True, which leaves out the rows that fill no whole step"
        if batch.total_examples == 1 or batch.step == 0:
            fix += ", and with batches of 2 rows or more"
        raise ModelError(
            f"step {batch.step} of the epoch has one row on this rank, of which batch normalisation cannot take "
            f"statistics: {fix}, or put another normalisation into the module ({error})"
        ) from error


def _moved(value: Any, device: torch.device) -> Any:
    """Bring the tensors of a batch to a device, in whatever form they are."""
    if isinstance(value, torch.Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, dict):
        return {name: _moved(each, device) for name, each in value.items()}
    return tuple(_moved(each, device) for each in value) if isinstance(value, tuple) else value
