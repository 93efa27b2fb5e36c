"""The one entry of every rank, whatever launched it."""

from __future__ import annotations

import logging

from hvdspark import storage
from hvdspark.collectives import Collective, open_collective
from hvdspark.errors import ConfigurationError
from hvdspark.events import EventLog
from hvdspark.training.job import Job, RankReport
from hvdspark.training.loop import Trainer
from hvdspark.training.place import occupied, take_place
from hvdspark.training.rules import seed_random
from hvdspark.training.sharing import SharingOptions

__all__ = ["WEIGHTS_FILE", "work"]

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
    with open_collective(job.transport) as world, EventLog(job.run_directory, world.rank) as events:
        _check_local_ranks(job, world)
        if isinstance(job.sharing, SharingOptions) and job.sharing.encoding_debug_mode:
            _show_encoding_lines()
        device, num_threads = take_place(job.device, world)
        with occupied(device, num_threads):
            seed_random(job.seed + world.rank)
            trainer = Trainer(job, world, events, device, num_threads)
            report = trainer.train()
            if world.rank == 0:
                _save_weights(job)
            world.barrier()  # nobody reports success before the weights are safe
            return report


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
