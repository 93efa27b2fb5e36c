"""A rank's own partition: spilled, compared with those of the others, and ready for all epochs."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from hvdspark.collectives import Collective
from hvdspark.data import Field, PartitionReader, SpilledPortion
from hvdspark.data.problems import Problem
from hvdspark.data.spill import SpillResult, spill, spill_folder
from hvdspark.data.verdict import check_parts
from hvdspark.errors import ConfigurationError
from hvdspark.training.job import Job

__all__ = ["compare_resumed", "spill_partition"]

_LOG = logging.getLogger(__name__)
_ADVICE = (
    "a partition has other rows than before, or has them in another order. Where Spark deals them out anew each time, "
    "give the ranks partitions that stay (repartition='never' on rows that are sorted), or use "
    "rdd_training_approach='export' with an export_directory"
)


@dataclasses.dataclass(frozen=True)
class _Told:
    """What ranks tell each other of the rows in one place: 0 to train on, 1 held back."""

    partition: int
    place: int
    num_rows: int = 0
    fields: tuple[Field, ...] = ()
    problems: tuple[Problem, ...] = ()
    storage_error: str = ""
    fingerprint: str = ""

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> _Told:
        fields = tuple(Field(**{**field, "shape": tuple(field["shape"])}) for field in facts["fields"])
        problems = tuple(Problem(**problem) for problem in facts["problems"])
        return cls(**{**facts, "fields": fields, "problems": problems})


def spill_partition(
    batches: Iterable[Any], reader: PartitionReader, world: Collective
) -> tuple[list[SpilledPortion], dict[str, Any]]:
    """Spill this rank's rows and compare them with those of all ranks; all ranks call it, and fail alike.

    Parameters
    ----------
    batches : iterable of pyarrow.RecordBatch
        The partition; it is read to its end.
    reader : PartitionReader
        Makes rows of it.
    world : Collective
        The ranks.

    Returns
    -------
    list of SpilledPortion
        What to train on; then what to validate with, where the source holds rows back.
    dict
        What a run that goes on must find again: rows and fingerprint of each rank.

    Raises
    ------
    DataError
        Where there is no row, or rows cannot be trained on: one error for the whole source, the same on all ranks.
    StorageError
        Where a rank could not write its rows.
    """
    result = spill(reader.read(batches), spill_folder(world.local_rank), has_flags=reader.has_flags)
    told = _exchanged(_telling(result, world.rank), world)
    num_places = 2 if reader.has_flags else 1
    check_parts([each for each in told if _says_something(each)], reader.name, reader.noun, num_places)
    fields = next(each.fields for each in told if each.num_rows)
    portions, facts = [], []
    for place, groups in enumerate(result.groups):
        ranks = [each for each in told if each.place == place]
        portions.append(SpilledPortion(groups.of(fields), tuple(each.num_rows for each in ranks)))
        facts.append([[each.num_rows, each.fingerprint] for each in ranks])
    return portions, dict(zip(("train", "validation"), facts, strict=False))


def compare_resumed(job: Job, facts: dict[str, Any]) -> Job:
    """Return the job with the facts of the rows, and with those of its checkpoints that were made of the same rows.

    Raises
    ------
    ConfigurationError
        If it was told to go on, and none of its checkpoints was made of the same rows.
    """
    mine = tuple(each for each in job.resume if all(each.facts.get(name) == value for name, value in facts.items()))
    if job.resume and not mine:
        if job.failure is None:
            raise ConfigurationError(
                f"resume=True cannot go on from {job.resume[0].name}: {_ADVICE}; or train anew with resume=False in "
                "another run_directory"
            )
        _LOG.warning("the ranks start from the start, not from %s: %s", job.resume[0].name, _ADVICE)
    return dataclasses.replace(job, facts={**job.facts, **facts}, resume=mine)


def _telling(result: SpillResult, rank: int) -> list[_Told]:
    if not result.groups:
        return [_Told(rank, 0, problems=result.problems, storage_error=result.storage_error)]
    return [
        _Told(rank, place, groups.num_rows, groups.fields, fingerprint=groups.fingerprint)
        for place, groups in enumerate(result.groups)
    ]


def _says_something(told: _Told) -> bool:
    return bool(told.num_rows or told.problems or told.storage_error)


def _exchanged(mine: Sequence[_Told], world: Collective) -> list[_Told]:
    """Return what all ranks tell, ordered by place and rank."""
    text = json.dumps([asdict(each) for each in mine]).encode()
    messages = world.allgather(np.frombuffer(text, np.uint8))
    told = [_Told.from_facts(facts) for message in messages for facts in json.loads(message.tobytes())]
    return sorted(told, key=lambda each: (each.place, each.partition))
