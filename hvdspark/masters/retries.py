"""A stage whose ranks were lost is submitted again; one that the user's own code or options ended is not.

Spark itself never retries such a stage (it ends in a result stage, and half of its results may be taken).
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable
from typing import Any

from hvdspark.errors import (
    ConfigurationError,
    DataError,
    LaunchError,
    PeerFailed,
    RankFailed,
    StartTimeout,
    TooFewSlots,
)
from hvdspark.training import CheckpointManifest, Failure, Job, RankReport, find_checkpoints, work, work_on_partition
from hvdspark_launch import Launcher

__all__ = ["run_to_the_end"]

_LOG = logging.getLogger(__name__)
_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 30.0


def run_to_the_end(
    launcher: Launcher,
    num_workers: int,
    job: Job,
    max_failures: int,
    sleep: Callable[[float], None] = time.sleep,
    lap: Callable[[str], None] | None = None,
    rows: Any = None,
) -> list[RankReport]:
    """Run a job on all ranks; where some are lost, again from the last checkpoint, or from the start without one.

    Parameters
    ----------
    launcher : Launcher
        Starts the ranks.
    num_workers : int
        How many.
    job : Job
        What they do.
    max_failures : int
        How often ranks may be lost.
    sleep : callable
        Waits so many seconds before a further attempt, longer each time: what was lost may need time to come back.
    lap : callable, optional
        Told "lost attempt" after each, that wait included.
    rows : KeptPartitions, optional
        What the ranks read themselves. Every attempt reads it anew: Spark computes again what it does not hold.

    Raises
    ------
    DataError, ConfigurationError
        Where ranks refused the rows that they have read themselves.
    LaunchError
        Where it was the user's own exception or option, or ranks were lost once too often.
    """
    attempt = 1
    while True:
        try:
            if rows is None:
                return launcher.run(work, num_workers, args=(job,))
            return launcher.run(work_on_partition, num_workers, args=(job,), rows=rows)
        except LaunchError as error:
            if rows is not None and isinstance(error.__cause__, DataError | ConfigurationError):
                # What the driver would say of staged rows: it is about the source, not about a rank.
                raise type(error.__cause__)(str(error.__cause__)) from error
            failure = _failure(error, attempt)
            if failure is None:
                raise
            if attempt > max_failures:
                error.add_note(f"max_failures={max_failures}: this was attempt {attempt}, and the last")
                raise
        # Not what a run has left there that `fit(resume=True)` has passed over.
        found = tuple(each for each in find_checkpoints(job.run_directory) if _is_of(each, job))
        _LOG.warning(
            "attempt %d of %d ended, for rank %d on %s was lost (%s): the ranks start again from %s",
            attempt, max_failures + 1, failure.rank, failure.host, failure.cause,
            found[0].name if found else "the start",
        )  # fmt: skip
        sleep(min(_FIRST_WAIT_S * 2 ** (attempt - 1), _LONGEST_WAIT_S))
        if lap is not None:
            lap("lost attempt")
        job = dataclasses.replace(job, resume=found, failure=failure)
        attempt += 1


def _is_of(checkpoint: CheckpointManifest, job: Job) -> bool:
    """Tell whether a checkpoint is one of this job; ranks that read partitions themselves add facts of their rows."""
    return all(name in checkpoint.facts and checkpoint.facts[name] == value for name, value in job.facts.items())


def _failure(error: LaunchError, attempt: int) -> Failure | None:
    """Return what a further attempt may mend; None: what would come again."""
    if isinstance(error, RankFailed) and _was_lost(error):
        return Failure(attempt=attempt, rank=error.rank, host=error.host, cause=error.summary.partition("\n")[0])
    if attempt > 1 and isinstance(error, StartTimeout | TooFewSlots):
        # Before the first attempt there was room for all: what was lost is not back yet.
        return Failure(attempt=attempt, rank=-1, host="an unknown host", cause=str(error).partition("\n")[0])
    return None


def _was_lost(error: RankFailed) -> bool:
    """Tell whether the rank died, or stopped because another did: without an exception of its own."""
    cause = error.__cause__
    while cause is not None:
        if isinstance(cause, PeerFailed):
            return True
        cause = cause.__cause__
    # Without a cause, a traceback tells of an exception that could not be carried.
    return error.__cause__ is None and not error.traceback and "Traceback (most recent call last)" not in error.summary
