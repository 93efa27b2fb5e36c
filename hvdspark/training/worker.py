"""The one entry of every rank, whatever launched it."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from hvdspark import storage
from hvdspark.collectives import Collective, open_collective
from hvdspark.data import Portion, StagedPortion
from hvdspark.data.verdict import check_same_fields
from hvdspark.errors import ConfigurationError
from hvdspark.events import EventLog
from hvdspark.training.job import Job, RankReport
from hvdspark.training.loop import Trainer
from hvdspark.training.partition import compare_resumed, spill_partition
from hvdspark.training.place import occupied, take_place
from hvdspark.training.rules import seed_random
from hvdspark.training.sharing import SharingOptions

__all__ = ["WEIGHTS_FILE", "work", "work_on_partition"]

#: Where rank 0 leaves the trained weights, in the run directory.
WEIGHTS_FILE = "weights.safetensors"


def work(job: Job) -> RankReport:
    """Train as one of the ranks and report.

    Parameters
    ----------
    job : Job
        Equal on all ranks.

    Raises
    ------
    HvdsparkError
        What went wrong on this rank, or RankLost where another rank failed first.
    """
    return _work(job, None)


def work_on_partition(batches: Iterable[Any], job: Job) -> RankReport:
    """Train on the rows of this rank's own partition; otherwise as `work`.

    Parameters
    ----------
    batches : iterable of pyarrow.RecordBatch
        What `job.reader` makes rows of; read once, to the end.
    job : Job
        Equal on all ranks.

    Raises
    ------
    DataError
        Where rows cannot be trained on: the same on all ranks.
    """
    return _work(job, batches)


def _work(job: Job, batches: Iterable[Any] | None) -> RankReport:
    with open_collective(job.transport) as world, EventLog(job.run_directory, world.rank) as events:
        _check_local_ranks(job, world)
        if isinstance(job.sharing, SharingOptions) and job.sharing.encoding_debug_mode:
            _show_encoding_lines()
        device, num_threads = take_place(job.device, world)
        with occupied(device, num_threads):
            job, train, validation = _data(job, world, batches)
            seed_random(job.seed + world.rank)
            trainer = Trainer(job, world, events, device, num_threads, train, validation)
            report = trainer.train()
            if world.rank == 0:
                _save_weights(job)
            world.barrier()  # nobody reports success before the weights are safe
            return report


def _data(job: Job, world: Collective, batches: Iterable[Any] | None) -> tuple[Job, Portion, Portion | None]:
    """Return what this rank trains on and validates with, and the job with all that is known of both."""
    validation = None if job.validation_directory is None else StagedPortion(job.validation_directory)
    if job.train_directory is not None:
        return job, StagedPortion(job.train_directory), validation
    assert batches is not None
    assert job.reader is not None
    (train, *held_back), facts = spill_partition(batches, job.reader, world)
    if validation is not None:
        check_same_fields(train.groups.fields, validation.groups.fields)
    return compare_resumed(job, facts), train, held_back[0] if held_back else validation


def _check_local_ranks(job: Job, world: Collective) -> None:
    if job.max_local_ranks is not None and world.local_size > job.max_local_ranks:
        raise ConfigurationError(
            f"workers_per_node={job.max_local_ranks}, but {world.local_size} ranks run on {world.host}: "
            "lower num_workers, or spread the executors over more hosts"
        )


def _show_encoding_lines() -> None:
    """Let the lines of the encoding debug mode be seen: on stderr, where nobody else has told logging what to do."""
    logger = logging.getLogger("hvdspark.encoding")
    logger.setLevel(logging.INFO)  # it stays: nobody writes to this logger without that mode
    if not logger.hasHandlers():
        logger.addHandler(logging.StreamHandler())


def _save_weights(job: Job) -> None:
    storage.write_tensors(storage.join(job.run_directory, WEIGHTS_FILE), job.network.module.state_dict())
