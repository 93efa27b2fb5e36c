"""What all training masters share: options, and the way of a fit from staged data to a trained network."""

from __future__ import annotations

import abc
import logging
import time
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, field_serializer, field_validator, model_validator

from hvdspark import storage
from hvdspark.data import Source
from hvdspark.errors import ConfigurationError, RankMismatch
from hvdspark.masters.data_options import DataOptions
from hvdspark.masters.device import check_device
from hvdspark.masters.placement import LAUNCHERS, choose_launcher, open_run_directory
from hvdspark.masters.progress import ProgressBar
from hvdspark.masters.resume import (
    choose_seed,
    facts_of,
    facts_of_data,
    matching,
    refuse_old_checkpoints,
    require_checkpoints,
    weight_options,
)
from hvdspark.masters.retries import run_to_the_end
from hvdspark.masters.staging import StagedData, check_alike
from hvdspark.masters.workers import count_workers
from hvdspark.network import Network
from hvdspark.stats import DriverTimes, RankStats, TrainingStats, read_traces
from hvdspark.training import (
    Checkpoint,
    CheckpointManifest,
    EarlyStopping,
    Job,
    RankReport,
    Sharing,
    TrainingHook,
    TrainingListener,
    TrainingResult,
)
from hvdspark.training.worker import WEIGHTS_FILE
from hvdspark_launch import Launcher

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["TrainingMaster"]

_LOG = logging.getLogger(__name__)
_GC_MS = 5000


class TrainingMaster(DataOptions, abc.ABC):
    """How a network is trained on a cluster. Abstract; its options are those of every master.

    Those that are about data (`rdd_training_approach`, `export_directory` ...) stand in `DataOptions`.

    Parameters
    ----------
    batch_size_per_worker : int
        Examples a rank and step.
    num_workers : int, optional
        Ranks. None: hosts x `workers_per_node`.
    workers_per_node : int
        Ranks a host; -1: one for each of its GPUs, else one. Its GPUs are those of its executors
        (spark.executor.resource.gpu.amount), on a local master those that torch sees; none with `device="cpu"`. Where
        `num_workers` is given too, a positive number is a limit, checked when the ranks meet. The ranks of a host
        share its cores: see `BarrierLauncher`.
    transport : {"horovod", "torch"}
        What carries the messages between ranks: Horovod, or PyTorch's own Gloo.
    launcher : {"barrier", "horovod_spark", "local"} or Launcher
        What starts the ranks: one Spark barrier stage, `horovod.spark.run`, or processes of this host (for tests).
    worker_prefetch_num_batches : int
        Batches that a rank reads ahead.
    rng_seed : int, optional
        Decides the order of examples and the ranks' random numbers. None: drawn, and recorded in the result.
    buffers : {"mean", "local"}
        What becomes of buffers such as BatchNorm's statistics at the end of each epoch: their mean over ranks, or each
        rank keeps its own, and rank 0's are those of the trained network.
    collect_training_stats : bool
        Record each phase of each step on every rank, and those of the driver: `TrainingStats.phases`, `to_chrome_trace`
        and the timelines of `to_html`. What that costs stands in docs/stats.md.
    worker_toggle_periodic_gc : bool
        Collect garbage on workers every `worker_periodic_gc_frequency_ms` milliseconds, between steps, instead of
        whenever Python sees fit: a collection in the middle of a step makes all other ranks wait.
    worker_periodic_gc_frequency_ms : int
        See above; set with ``worker_toggle_periodic_gc=False`` it is refused.
    debug_longer_iterations_ms : int
        Milliseconds that each step sleeps: for looking at a run while it goes.
    training_hooks : tuple of TrainingHook
        Run on every rank, before and after each update.
    listeners : tuple of TrainingListener
        Hear of each step and epoch, on every rank.
    checkpoint : Checkpoint, optional
        When checkpoints are written into the run directory, from which a run goes on that was interrupted.
    max_failures : int
        How often ranks may be lost (a dead process, executor or host) before the fit fails. Each time all ranks start
        again, from the last checkpoint, or without one from the start. The user's own exceptions, and what ranks
        refuse, are raised at once.
    device : str
        "auto" (a GPU where there is one), "cpu", "cuda" or "cuda:0". Under "auto" and "cuda" a rank takes the GPU that
        Spark gave its task, else one by its place on the host. Two ranks on one GPU are refused. Where Spark gave a GPU
        that torch does not see, "auto" goes on on the CPU, with a warning, and the others are refused.
    """

    batch_size_per_worker: int = Field(gt=0)
    num_workers: int | None = Field(default=None, gt=0)
    workers_per_node: int = -1
    transport: str = "horovod"
    launcher: str | Launcher = "barrier"
    worker_prefetch_num_batches: int = Field(default=2, ge=0)
    rng_seed: int | None = Field(default=None, ge=0, lt=2**63)
    buffers: Literal["mean", "local"] = "mean"
    collect_training_stats: bool = False
    worker_toggle_periodic_gc: bool = True
    worker_periodic_gc_frequency_ms: int = Field(default=_GC_MS, gt=0)
    debug_longer_iterations_ms: int = Field(default=0, ge=0)
    training_hooks: tuple[TrainingHook, ...] = ()
    listeners: tuple[TrainingListener, ...] = ()
    checkpoint: Checkpoint | None = None
    max_failures: int = Field(default=3, ge=0)
    device: str = "auto"

    @field_validator("workers_per_node")
    @classmethod
    def _check_workers_per_node(cls, value: int) -> int:
        if value != -1 and value < 1:
            raise ValueError("-1 (automatic) or a number from 1 is needed")
        return value

    @field_validator("transport")
    @classmethod
    def _check_transport(cls, value: str) -> str:
        if value == "mpi":
            raise ValueError(
                "'mpi' needs ranks that mpirun started, which no Spark launcher does: use 'horovod' or 'torch'"
            )
        if value not in ("horovod", "torch"):
            raise ValueError("'horovod' or 'torch' is needed")
        return value

    @field_validator("launcher")
    @classmethod
    def _check_launcher(cls, value: str | Launcher) -> str | Launcher:
        if isinstance(value, str) and value not in LAUNCHERS:
            raise ValueError(f"one of {LAUNCHERS} or a Launcher is needed")
        return value

    @model_validator(mode="after")
    def _check_approach(self) -> Self:
        if self.rdd_training_approach == "direct" and self.launcher in ("horovod_spark", "local"):
            raise ValueError(
                f'rdd_training_approach="direct" cannot act with launcher="{self.launcher}", whose ranks are no Spark '
                'tasks and have no partition: use launcher="barrier"'
            )
        return self

    @field_serializer("launcher")
    def _write_launcher(self, value: str | Launcher) -> str:
        if isinstance(value, Launcher):
            raise ConfigurationError(f"a {type(value).__name__} cannot be written as text: name one of {LAUNCHERS}")
        return value

    @field_serializer("training_hooks", "listeners")
    def _write_objects(self, value: tuple[Any, ...]) -> list[Any]:
        if value:
            names = ", ".join(type(each).__name__ for each in value)
            raise ConfigurationError(
                f"training_hooks and listeners ({names}) cannot be written as text: leave them out"
            )
        return []

    @model_validator(mode="after")
    def _check_gc(self) -> Self:
        if not self.worker_toggle_periodic_gc and self.worker_periodic_gc_frequency_ms != _GC_MS:
            raise ValueError(
                "worker_periodic_gc_frequency_ms cannot act with worker_toggle_periodic_gc=False: leave it out"
            )
        return self

    @field_validator("device")
    @classmethod
    def _check_device(cls, value: str) -> str:
        return check_device(value)

    def with_hooks(self, *hooks: TrainingHook) -> Self:
        """Return a copy with more hooks."""
        return self.replaced(training_hooks=(*self.training_hooks, *hooks))

    def without_hook(self, hook: TrainingHook) -> Self:
        """Return a copy without this hook.

        Raises
        ------
        ConfigurationError
            If it has no such hook.
        """
        if not any(each is hook for each in self.training_hooks):
            raise ConfigurationError(f"this master has no such hook: {hook!r}")
        return self.replaced(training_hooks=tuple(each for each in self.training_hooks if each is not hook))

    @abc.abstractmethod
    def sharing(self) -> Sharing:
        """Return how the ranks share what they learn."""

    def fit(
        self,
        spark: SparkSession,
        network: Network,
        train: Source,
        *,
        epochs: int = 1,
        validation: Source | None = None,
        early_stopping: EarlyStopping | None = None,
        resume: bool = False,
        run_directory: str | None = None,
    ) -> TrainingResult:
        """Stage the data, train on all ranks, and put the trained weights into the network.

        Parameters
        ----------
        spark : SparkSession
            Where data are staged and, by most launchers, ranks run.
        network : Network
            What to train; its module holds the trained weights afterwards.
        train, validation : Source
            What to train on, and what to score after each epoch: rows of the same features and labels. A training
            source may hold rows back for validation itself.
        epochs : int
            Passes over the training data.
        early_stopping : EarlyStopping, optional
            When training ends before that; the network gets the weights of the best epoch.
        resume : bool
            Go on from the last whole checkpoint in the run directory, to the weights that the run would have come to.
        run_directory : str, optional
            Where events, checkpoints and weights go. None: a temporary folder, on a local master only.
        """
        if not isinstance(epochs, int) or epochs < 1:
            raise ConfigurationError(f"epochs: a whole number from 1 is needed, not {epochs!r}")
        begin = time.perf_counter()
        driver = DriverTimes()
        # Whatever can be refused is refused before the data are staged, which can take long.
        _check_monitor(early_stopping, is_validated=validation is not None or train.has_flags)
        network.check_portable()
        found = require_checkpoints(run_directory) if resume else ()
        if not resume:
            refuse_old_checkpoints(run_directory)
        if validation is not None:
            check_alike(train, validation)
        for source in (train, validation):
            network.check_roles((source and source.roles) or ())
        launcher = choose_launcher(self.launcher, spark, self.device)
        self._check_rows(launcher, train, self.batch_size_per_worker)
        num_workers = self.num_workers or count_workers(spark, launcher, self.workers_per_node, self.device)
        launcher.check(num_workers)
        seed = choose_seed(self.rng_seed, found)
        facts = facts_of(network, num_workers, seed, weight_options(self, self.sharing()))
        found = matching(found, facts, epochs)
        driver.lap("checks")
        with open_run_directory(spark, run_directory) as directory:
            with self._rows(train, validation, directory, num_workers, self.batch_size_per_worker) as data:
                network.check_roles([field.role for field in data.fields])
                facts |= facts_of_data(data)
                going_on = matching(found, facts, epochs)
                job = self._job(network, data, epochs, early_stopping, directory, seed, facts, going_on)
                ready = time.perf_counter()
                driver.lap("staging")
                _LOG.info("training %d parameters on %d ranks", network.num_parameters, num_workers)
                with ProgressBar(directory, epochs):
                    reports = run_to_the_end(
                        launcher, num_workers, job, self.max_failures, lap=driver.lap, rows=data.rows
                    )
            driver.lap("ranks")
            _check_agreement(reports)
            weights, _ = storage.read_tensors(storage.join(directory, WEIGHTS_FILE), framework="torch")
            network.load_tensors(weights, source=directory)
            driver.lap("weights")
        end = time.perf_counter()
        seconds = {"staging_s": ready - begin, "training_s": end - ready, "total_s": end - begin}
        return self._result(network, reports, directory, job.seed, seconds, driver)

    def _job(
        self,
        network: Network,
        data: StagedData,
        epochs: int,
        early_stopping: EarlyStopping | None,
        directory: str,
        seed: int,
        facts: dict[str, Any],
        resume: tuple[CheckpointManifest, ...],
    ) -> Job:
        return Job(
            network=network,
            train_directory=data.train,
            validation_directory=data.validation,
            run_directory=directory,
            epochs=epochs,
            batch_size=self.batch_size_per_worker,
            sharing=self.sharing(),
            seed=seed,
            shuffle=self.shuffle,
            drop_last=self.drop_last,
            prefetch=self.worker_prefetch_num_batches,
            transport=self.transport,
            device=self.device,
            max_local_ranks=self.workers_per_node if self.workers_per_node > 0 else None,
            buffers=self.buffers,
            gc_interval_ms=self.worker_periodic_gc_frequency_ms if self.worker_toggle_periodic_gc else None,
            longer_iterations_ms=self.debug_longer_iterations_ms,
            hooks=self.training_hooks,
            listeners=self.listeners,
            checkpoint=self.checkpoint,
            facts=facts,
            resume=resume,
            collect_stats=self.collect_training_stats,
            reader=data.reader,
            early_stopping=early_stopping,
        )

    def _result(
        self,
        network: Network,
        reports: list[RankReport],
        directory: str,
        seed: int,
        seconds: dict[str, float],
        driver: DriverTimes,
    ) -> TrainingResult:
        history = reports[0].history
        ranks = f"{len(reports)} rank{'s' if len(reports) > 1 else ''}"
        collected = read_traces(directory, len(reports), driver) if self.collect_training_stats else ((), ())
        if history[-1].get("dropped"):
            _LOG.info("drop_last=True: %d examples were left out of each epoch", history[-1]["dropped"])
        return TrainingResult(
            network=network,
            score=history[-1 if reports[0].best_epoch is None else reports[0].best_epoch]["score"],
            history=history,
            best_epoch=reports[0].best_epoch,
            stop_reason=reports[0].stop_reason,
            stats=TrainingStats(
                title=f"{type(network.own_module).__name__}, {network.num_parameters:,} parameters, {ranks}",
                history=history,
                ranks=tuple(_rank_stats(report) for report in reports),
                options={**self.describe(), "rng_seed": seed},
                **seconds,
                traces=collected[0],
                driver=collected[1],
            ),
            bytes_sent=round(sum(report.bytes_sent for report in reports) / len(reports)),
            dense_bytes=reports[0].dense_bytes,
            run_directory=directory,
            seed=seed,
        )

    def describe(self) -> dict[str, Any]:
        """Return the options as plain values, for reports (a launcher object by its class name)."""
        objects = ("training_hooks", "listeners")
        options = self.model_dump(mode="json", exclude={"launcher", *objects})
        options.update({option: [type(each).__name__ for each in getattr(self, option)] for option in objects})
        name = self.launcher if isinstance(self.launcher, str) else type(self.launcher).__name__
        return {"master": type(self).__name__, **options, "launcher": name}


def _rank_stats(report: RankReport) -> RankStats:
    names = RankStats.__dataclass_fields__
    return RankStats(**{name: getattr(report, name) for name in names})


def _check_monitor(early_stopping: EarlyStopping | None, *, is_validated: bool) -> None:
    if early_stopping is not None and not isinstance(early_stopping, EarlyStopping):
        raise ConfigurationError(
            f"early_stopping: an EarlyStopping is needed, this is a {type(early_stopping).__name__}"
        )
    if early_stopping is not None and early_stopping.monitor == "validation_score" and not is_validated:
        raise ConfigurationError(
            "EarlyStopping.monitor='validation_score' has nothing to look at: give fit(validation=...), or monitor "
            "'score'"
        )


def _check_agreement(reports: list[RankReport]) -> None:
    found = {report.fingerprint for report in reports}
    if len(found) > 1:
        listed = ", ".join(f"rank {report.rank}: {report.fingerprint:08x}" for report in reports)
        raise RankMismatch(f"the trained weights differ between ranks: {listed}")
