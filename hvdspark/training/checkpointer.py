"""One rank's part in checkpoints: it writes its own state and takes it back, together with all ranks."""

from __future__ import annotations

import dataclasses
import json
import logging
import time
from typing import Any

import numpy as np
import torch

from hvdspark import storage
from hvdspark.collectives import Collective
from hvdspark.errors import StorageError
from hvdspark.events import EventLog
from hvdspark.sync import Synchroniser
from hvdspark.training.checkpoint import (
    WEIGHTS,
    CheckpointManifest,
    checkpoint_name,
    checkpoints_directory,
    list_checkpoints,
    rank_file,
)
from hvdspark.training.job import Job
from hvdspark.training.nested import flatten, rebuild
from hvdspark.training.rules import check_rules, describe_rules, random_state, restore_random_state

__all__ = ["Checkpointer", "Progress", "Trained"]

_LOG = logging.getLogger(__name__)
_STRUCTURE = "structure"  # of a rank's state, in the metadata of its file


@dataclasses.dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a rank has come.

    Parameters
    ----------
    epoch, step : int
        What comes next: this step of this epoch, both from 0.
    loss_sum : float
        Over this rank's examples of this epoch so far.
    steps, examples : int
        Taken and trained on before, by this rank, over all epochs.
    history : list of dict
        Of the epochs that are over.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    steps: int = 0
    examples: int = 0
    history: list[dict[str, Any]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Trained:
    """What has a state.

    Parameters
    ----------
    module : torch.nn.Module
        On its device.
    optimizer : Synchroniser
        Of its parameters.
    scheduler : torch LRScheduler, optional
        Of the optimizer.
    device : torch.device
        Whose random numbers are drawn.
    """

    module: torch.nn.Module
    optimizer: Synchroniser
    scheduler: torch.optim.lr_scheduler.LRScheduler | None
    device: torch.device


class Checkpointer:
    """Saves and restores what is trained; all ranks call its methods at the same steps.

    Parameters
    ----------
    job : Job
        Says when, where, and from which checkpoints to go on.
    world : Collective
        The ranks.
    events : EventLog
        Where this rank records what it does.
    trained : Trained
        Before its first step.
    """

    def __init__(self, job: Job, world: Collective, events: EventLog, trained: Trained) -> None:
        self._job = job
        self._world = world
        self._events = events
        self._trained = trained
        self._rules = describe_rules(trained.optimizer, trained.scheduler)

    # ---- saving ------------------------------------------------------------------------------------------------

    def is_due_after_step(self, steps: int) -> bool:
        """Tell whether one is due after so many steps over all epochs."""
        every = self._job.checkpoint.every_steps if self._job.checkpoint else None
        return every is not None and steps % every == 0

    def is_due_after_epoch(self, epochs: int) -> bool:
        """Tell whether one is due after so many epochs."""
        every = self._job.checkpoint.every_epochs if self._job.checkpoint else None
        return every is not None and epochs % every == 0

    def save(self, progress: Progress) -> None:
        """Write a checkpoint, which is there when all ranks' files are; then remove those that are old.

        Raises
        ------
        StorageError
            If this rank's part cannot be written; the others get RankLost. Earlier checkpoints stay.
        UnsupportedError
            If optimizer or scheduler keep something that is no tensor, number or text.
        """
        begin = time.perf_counter()
        name = checkpoint_name(progress.epoch, progress.step)
        parent = checkpoints_directory(self._job.run_directory)
        storage.make_folder(parent)
        storage.make_folder(storage.join(parent, name))
        written = self._write_own(storage.join(parent, name), progress)
        told = self._tell(written)
        if self._world.rank == 0:
            CheckpointManifest(
                epoch=progress.epoch,
                step=progress.step,
                steps=progress.steps,
                size=self._world.size,
                facts=self._job.facts,
                rules=self._rules,
                checksums={file: digest for files in told for file, digest in files.items()},
            ).write(self._job.run_directory)
            self._events.write("checkpoint", name=name, seconds=time.perf_counter() - begin)
            self._remove_others(name)

    def _write_own(self, folder: str, progress: Progress) -> dict[str, str]:
        """Write this rank's files; return their checksums."""
        trained, written = self._trained, {}
        sync = trained.optimizer.state_dict()
        names = {name for name, _ in trained.module.named_parameters(remove_duplicate=False)}
        tensors = trained.module.state_dict()
        weights = {name: tensor for name, tensor in tensors.items() if name in names}
        # In the middle of a period of local steps each rank has weights of its own; else rank 0's are everybody's.
        is_apart = sync["period"] is not None
        if self._world.rank == 0 and not is_apart:
            written[WEIGHTS] = storage.write_tensors(storage.join(folder, WEIGHTS), weights)
        state = {
            "progress": {f.name: getattr(progress, f.name) for f in dataclasses.fields(progress)},
            "synchroniser": sync,
            "scheduler": None if trained.scheduler is None else trained.scheduler.state_dict(),
            "buffers": {name: tensor for name, tensor in tensors.items() if name not in names},
            "weights": weights if is_apart else None,
            "random": random_state(trained.device),
        }
        flat, structure = flatten(state, "checkpoint")
        file = rank_file(self._world.rank)
        written[file] = storage.write_tensors(storage.join(folder, file), flat, {_STRUCTURE: structure})
        return written

    def _remove_others(self, name: str) -> None:
        """Keep the one just written and those before it that are asked for; later ones were passed over, or damaged."""
        assert self._job.checkpoint is not None
        whole = list_checkpoints(self._job.run_directory)
        before = whole[whole.index(name) + 1 :]
        kept = {name, *before[: self._job.checkpoint.keep - 1]}
        for each in list_checkpoints(self._job.run_directory, unfinished=True):
            if each not in kept:
                storage.remove_tree(storage.join(checkpoints_directory(self._job.run_directory), each))

    # ---- going on ----------------------------------------------------------------------------------------------

    def restore(self) -> Progress:
        """Go on from the latest of the job's checkpoints that is whole on all ranks; without any, from the start.

        Raises
        ------
        StorageError
            On all ranks, if the job has checkpoints and none is whole; the message says what is wrong with each.
        ConfigurationError
            If it was taken with another optimizer or scheduler.
        """
        problems: list[str] = []
        for manifest in self._job.resume:
            check_rules(manifest.rules, self._rules, manifest.name)
            state, problem = self._read(manifest)
            told = [f"rank {rank}: {each}" for rank, each in enumerate(self._tell(problem)) if each]
            if state is not None and not told:
                self._note_restart(manifest)
                return self._take(state)
            problems.append(f"{manifest.name} ({'; '.join(told)})")
            if self._world.rank == 0:
                _LOG.warning("a checkpoint is passed over: %s", problems[-1])
                self._events.write("checkpoint_refused", name=manifest.name, problem="; ".join(told))
        if problems:
            raise StorageError(
                f"no checkpoint in {self._job.run_directory} is whole: {', '.join(problems)}. Train anew in another "
                "run_directory"
            )
        self._note_restart(None)
        return Progress()

    def _read(self, manifest: CheckpointManifest) -> tuple[dict[str, Any] | None, str]:
        """Read this rank's part of a checkpoint; return it, or what is wrong with it."""
        folder = storage.join(checkpoints_directory(self._job.run_directory), manifest.name)
        try:
            flat, metadata = self._read_file(folder, rank_file(self._world.rank), manifest)
            state = rebuild(flat, metadata.get(_STRUCTURE, ""))
            if state["weights"] is None:
                state["weights"], _ = self._read_file(folder, WEIGHTS, manifest)
        except StorageError as error:
            return None, str(error)
        return state, ""

    @staticmethod
    def _read_file(
        folder: str, file: str, manifest: CheckpointManifest
    ) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
        if file not in manifest.checksums:
            raise StorageError(f"{manifest.name} has no {file}")
        path = storage.join(folder, file)
        return storage.read_tensors(path, framework="torch", expected_checksum=manifest.checksums[file])

    def _take(self, state: dict[str, Any]) -> Progress:
        trained = self._trained
        trained.module.load_state_dict({**state["weights"], **state["buffers"]})
        trained.optimizer.load_state_dict(state["synchroniser"])
        if trained.scheduler is not None:
            trained.scheduler.load_state_dict(state["scheduler"])
        restore_random_state(state["random"], trained.device)
        return Progress(**state["progress"])

    def _note_restart(self, manifest: CheckpointManifest | None) -> None:
        """Record where this run goes on, and what ended the attempt before it; rank 0 does."""
        failure = self._job.failure
        if self._world.rank == 0 and (manifest is not None or failure is not None):
            facts = {} if failure is None else {f"failed_{name}": fact for name, fact in vars(failure).items()}
            self._events.write("restart", checkpoint=manifest and manifest.name, **facts)

    def _tell(self, what: Any) -> list[Any]:
        """Give every rank what every rank has to say, JSON-able, in rank order."""
        message = np.frombuffer(json.dumps(what).encode(), np.uint8)
        return [json.loads(bytes(each)) for each in self._world.allgather(message)]
