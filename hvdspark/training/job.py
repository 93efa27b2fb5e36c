"""A training job as plain data: what the driver decides and every rank is given."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from hvdspark.data import PartitionReader
from hvdspark.network import Network
from hvdspark.training.checkpoint import Checkpoint, CheckpointManifest
from hvdspark.training.early_stopping import EarlyStopping
from hvdspark.training.hooks import TrainingHook, TrainingListener
from hvdspark.training.sharing import Sharing

__all__ = ["Failure", "Job", "RankReport"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """What ended an attempt.

    Parameters
    ----------
    attempt : int
        Which, from 1.
    rank : int
        The rank that was lost; -1: nobody can say.
    host : str
        Where it ran.
    cause : str
        How it ended, in a line.
    """

    attempt: int
    rank: int
    host: str
    cause: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Job:
    """Everything a rank needs to know.

    Parameters
    ----------
    network : Network
        What is trained. Rank 0's weights count.
    train_directory, validation_directory : str
        Staged data (path or URL). The second may be None; the first is where ranks are given their own partitions.
    reader : PartitionReader, optional
        Makes rows of a rank's own partition, which `work_on_partition` is given; None: data are staged.
    run_directory : str
        Where events go, and the trained weights.
    epochs : int
        Passes over the training data.
    batch_size : int
        Examples a rank and step.
    sharing : Sharing
        How ranks share what they learn.
    seed : int
        Decides the order of examples; rank r's torch generator starts from seed + r.
    shuffle : bool
        Whether training examples come in another order in each epoch; False: as they are stored.
    drop_last : bool
        Whether training examples are left out that fill no whole step of all ranks.
    prefetch : int
        Batches read ahead.
    transport : str
        What `open_collective` is asked for.
    device : str
        "auto", "cpu", "cuda" or "cuda:0".
    max_local_ranks : int, optional
        Refuse to start if a host has more ranks than this.
    buffers : {"mean", "local"}
        Whether buffers are averaged at the end of each epoch.
    gc_interval_ms : int, optional
        Milliseconds between garbage collections; None: Python's own.
    longer_iterations_ms : int
        Milliseconds that each step sleeps.
    hooks, listeners : tuple
        Users' own code.
    checkpoint : Checkpoint, optional
        When checkpoints are taken.
    facts : dict
        What is written into them, and must be the same for a run that goes on.
    resume : tuple of CheckpointManifest
        Where to go on: from the first that is whole on all ranks. Empty: from the start.
    failure : Failure, optional
        What ended the attempt before this one.
    collect_stats : bool
        Whether each phase of each step is recorded.
    early_stopping : EarlyStopping, optional
        When training ends before its last epoch.
    """

    network: Network
    train_directory: str | None
    validation_directory: str | None
    run_directory: str
    epochs: int
    batch_size: int
    sharing: Sharing
    seed: int
    prefetch: int
    transport: str
    device: str
    max_local_ranks: int | None
    shuffle: bool = True
    drop_last: bool = False
    buffers: Literal["mean", "local"] = "mean"
    gc_interval_ms: int | None = None
    longer_iterations_ms: int = 0
    hooks: tuple[TrainingHook, ...] = ()
    listeners: tuple[TrainingListener, ...] = ()
    checkpoint: Checkpoint | None = None
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    resume: tuple[CheckpointManifest, ...] = ()
    failure: Failure | None = None
    collect_stats: bool = False
    early_stopping: EarlyStopping | None = None
    reader: PartitionReader | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RankReport:
    """What a rank has to say when it is done.

    Parameters
    ----------
    rank, host
        Who it was.
    steps, exchanges, examples : int
        Steps taken, how often the ranks met, and examples trained on, over all epochs.
    history : tuple of dict
        One an epoch: `epoch`, `score` (mean loss over all examples of all ranks), `validation_score` where there was
        validation data, `dropped` (examples left out) under `drop_last`, `seconds`.
    bytes_sent, dense_bytes : int
        As in `SyncReport`.
    density, threshold, clipped_mass : float
        As in `SyncReport`.
    seconds : dict
        Seconds by phase: load, forward_backward, hooks, garbage, checkpoint, validate, epoch_end where there
        were any, and those of `SyncReport`.
    fingerprint : int
        Checksum of the final weights.
    best_epoch : int, optional
        Whose weights they are, under early stopping.
    stop_reason : str
        Why training ended early; empty: it did not.
    """

    rank: int
    host: str
    steps: int
    exchanges: int
    examples: int
    history: tuple[dict[str, Any], ...]
    bytes_sent: int
    dense_bytes: int
    density: float
    threshold: float
    clipped_mass: float
    seconds: dict[str, float]
    fingerprint: int
    best_epoch: int | None = None
    stop_reason: str = ""
