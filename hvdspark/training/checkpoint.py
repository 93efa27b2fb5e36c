"""What a checkpoint is: when it is taken, what lies in it, and which of those in a run directory count.

A checkpoint is a folder of the run directory::

    checkpoints/epoch-00001-step-000040/
        weights.safetensors       parameters, where all ranks have the same; written by rank 0
        rank-00000.safetensors    what is rank 0's own: buffers, optimizer, residual, random numbers, place in the data
        rank-00001.safetensors    ...; in the middle of local steps a rank's own parameters too
        checkpoint.json           place, facts of the run, length and SHA-256 of each file, and of itself

The last file is written when all ranks have said that theirs are whole: without it there is no checkpoint.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import re
from collections.abc import Mapping
from typing import Any, Self

from pydantic import Field, model_validator

from hvdspark import storage
from hvdspark.config import Configuration
from hvdspark.errors import StorageError

__all__ = [
    "WEIGHTS",
    "Checkpoint",
    "CheckpointManifest",
    "checkpoint_name",
    "checkpoints_directory",
    "find_checkpoints",
    "list_checkpoints",
    "rank_file",
]

_LOG = logging.getLogger(__name__)

FORMAT_VERSION = 1
WEIGHTS = "weights.safetensors"
_MANIFEST = "checkpoint.json"
_NAME = re.compile(r"epoch-(\d{5,9})-step-(\d{6,12})")


class Checkpoint(Configuration):
    """When checkpoints are taken, and how many are kept.

    Parameters
    ----------
    every_epochs : int or None
        One at the end of every so many epochs. None: only as `every_steps` says.
    every_steps : int, optional
        One after every so many steps, counted over all epochs.
    keep : int
        How many of the last are kept. One that is damaged is passed over for the one before it, so two or more are
        safer than one.
    """

    every_epochs: int | None = Field(default=1, gt=0)
    every_steps: int | None = Field(default=None, gt=0)
    keep: int = Field(default=2, gt=0)

    @model_validator(mode="after")
    def _check_either(self) -> Self:
        if self.every_epochs is None and self.every_steps is None:
            raise ValueError("every_epochs and every_steps are both None, so none would be taken: give one of them")
        return self


def checkpoints_directory(run_directory: str) -> str:
    """Return where the checkpoints of a run lie."""
    return storage.join(run_directory, "checkpoints")


def checkpoint_name(epoch: int, step: int) -> str:
    """Return the folder's name of a checkpoint from which a run goes on at this step of this epoch, both from 0."""
    return f"epoch-{epoch:05d}-step-{step:06d}"


def rank_file(rank: int) -> str:
    """Return the name of a rank's own file."""
    return f"rank-{rank:05d}.safetensors"


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointManifest:
    """What a checkpoint says of itself.

    Parameters
    ----------
    epoch, step : int
        Where the run goes on: with this step of this epoch, both from 0.
    steps : int
        Steps taken before it, over all epochs.
    size : int
        Number of ranks.
    facts : dict
        What the run that goes on must have in common with this one, by name; JSON-able.
    rules : dict
        The same of optimizer and scheduler, as ranks made them.
    checksums : dict
        SHA-256 of each file, by name.
    """

    epoch: int
    step: int
    steps: int
    size: int
    facts: Mapping[str, Any]
    rules: Mapping[str, str]
    checksums: Mapping[str, str]

    @property
    def name(self) -> str:
        """Its folder's name."""
        return checkpoint_name(self.epoch, self.step)

    def write(self, run_directory: str) -> None:
        """Write it, which makes the files beside it a checkpoint."""
        told = {"format_version": FORMAT_VERSION, **dataclasses.asdict(self)}
        path = storage.join(checkpoints_directory(run_directory), self.name, _MANIFEST)
        storage.write_json(path, {**told, "checksum": _checksum(told)})

    @classmethod
    def read(cls, run_directory: str, name: str) -> Self:
        """Read that of a folder.

        Raises
        ------
        StorageError
            Where it is missing, damaged, of another format version, or of another folder.
        """
        path = storage.join(checkpoints_directory(run_directory), name, _MANIFEST)
        told = storage.read_json(path)
        if not isinstance(told, dict) or told.pop("checksum", None) != _checksum(told):
            raise StorageError(f"{path} has changed or is damaged: its checksum is another")
        if told.pop("format_version", None) != FORMAT_VERSION:
            raise StorageError(f"{path}: another format version, this release reads {FORMAT_VERSION}")
        manifest = cls(**told)
        if manifest.name != name:
            raise StorageError(f"{path} is the manifest of {manifest.name}: the folder was renamed or copied")
        return manifest


def _checksum(told: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def list_checkpoints(run_directory: str, *, unfinished: bool = False) -> list[str]:
    """Return the names of the folders of checkpoints, damaged or not, the latest first.

    Parameters
    ----------
    run_directory : str
        Of the run.
    unfinished : bool
        Those without a manifest as well, which are none: what a run leaves that is killed while it saves.
    """
    parent = checkpoints_directory(run_directory)
    files = [file.removeprefix(parent).strip("/").partition("/") for file in storage.list_files(parent, recursive=True)]
    names = {folder for folder, _, file in files if unfinished or file == _MANIFEST}
    found = [(int(match[1]), int(match[2]), name) for name in names if (match := _NAME.fullmatch(name))]
    return [name for _, _, name in sorted(found, reverse=True)]


def find_checkpoints(run_directory: str) -> tuple[CheckpointManifest, ...]:
    """Return what the finished checkpoints say of themselves, the latest first; their files are not looked at.

    Raises
    ------
    StorageError
        If there are some and none can be used; the message says why of each.
    """
    found, problems = [], []
    whole = list_checkpoints(run_directory)
    for name in list_checkpoints(run_directory, unfinished=True):
        if name not in whole:
            _LOG.warning("the checkpoint %s is passed over: it was never finished", name)
            continue
        try:
            found.append(CheckpointManifest.read(run_directory, name))
        except StorageError as error:
            problems.append(str(error))
            _LOG.warning("the checkpoint %s is passed over: %s", name, error)
    if problems and not found:
        raise StorageError(
            f"{checkpoints_directory(run_directory)} holds no whole checkpoint: {'; '.join(problems)}. Train anew in "
            "another run_directory"
        )
    return tuple(found)
