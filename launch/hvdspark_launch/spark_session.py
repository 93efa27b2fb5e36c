"""What launchers need of a Spark session, classic or Connect: slots, the driver's Python, jobs that can be stopped."""

import os
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hvdspark_launch.errors import LaunchError, StartTimeout, TooFewSlots
from hvdspark_launch.spark_gpus import gpus_of_executor, gpus_of_task
from hvdspark_launch.threads import Threads

__all__ = ["SparkSide"]

_SLOTS_PATIENCE_S = 1.5  # executors of a session that has just started register one after another
_STOP_PATIENCE_S = 15.0  # for a cancelled job: Spark kills Python workers after spark.python.task.killTimeout, 2 s
_POLL_S = 0.1
_LOOK_S = 1.0


class SparkSide:
    """A Spark session, as launchers see it.

    Parameters
    ----------
    spark : pyspark.sql.SparkSession
        A classic session or one of Spark Connect.

    Raises
    ------
    LaunchError
        The session has been stopped.
    """

    def __init__(self, spark: Any) -> None:
        self._spark = spark
        self.is_connect = type(spark).__module__.startswith("pyspark.sql.connect")
        stopped = spark.is_stopped if self.is_connect else spark.sparkContext._jsc is None
        if stopped:
            raise LaunchError("the Spark session has been stopped; make a new one with SparkSession.builder")

    @property
    def is_local(self) -> bool:
        """Whether the master is local: the ranks are then processes of this host."""
        master = str(self._spark.conf.get("spark.master", ""))
        return master == "local" or master.startswith("local[")

    @property
    def allocates_dynamically(self) -> bool:
        """Whether Spark adds and removes executors as it goes. It does not look at the key on a local master."""
        return self._spark.conf.get("spark.dynamicAllocation.enabled", "false") == "true" and not self.is_local

    def refuse_dynamic_allocation(self) -> None:
        """Refuse a session that adds and removes executors as it goes: Spark has no barrier stages there.

        Raises
        ------
        LaunchError
            Naming the configuration key.
        """
        if self.allocates_dynamically:
            raise LaunchError(
                "Spark runs no barrier stage while spark.dynamicAllocation.enabled is true; "
                "start the session with spark.dynamicAllocation.enabled=false and a fixed spark.executor.instances"
            )

    def threads(self, env: Mapping[str, str]) -> Threads:
        """Return what is known here of the threads that ranks may use.

        Parameters
        ----------
        env : mapping
            What the user gives to all ranks.
        """
        own = env.get("OMP_NUM_THREADS") or self._spark.conf.get("spark.executorEnv.OMP_NUM_THREADS", None)
        if own is None and self.is_local:
            own = os.environ.get("OMP_NUM_THREADS")  # elsewhere ranks do not run in the driver's environment
        return Threads(own, int(self._spark.conf.get("spark.task.cpus", None) or 0) or None)

    def check_slots(
        self, num_proc: int, start_timeout_s: float, profile: Any = None, *, had_room: bool = False
    ) -> None:
        """Refuse more ranks than the cluster can run at once; does nothing under Connect, which cannot tell.

        Parameters
        ----------
        num_proc : int
            Ranks asked for.
        start_timeout_s : float
            How long to wait for the first executor of a session that has just started.
        profile : pyspark.resource.ResourceProfile, optional
            What each task asks for; None: what the session says.
        had_room : bool
            Whether so many ran at once before: what is missing was lost, and the cluster may bring it back.

        Raises
        ------
        TooFewSlots
            At once on a local master; within 2 s after the last executor came where the session did not ask for enough;
            after `start_timeout_s` where it did, or had room before.
        StartTimeout
            No executor came.
        """
        if self.is_connect:
            return
        enough = had_room or self._asked_for(profile) >= num_proc
        patience_s = 0.0 if self.is_local else start_timeout_s if enough else _SLOTS_PATIENCE_S
        begin = changed = time.monotonic()
        seen = 0
        while (slots := self._slots(profile)) < num_proc:
            now = time.monotonic()
            if slots != seen:
                seen, changed = slots, now
            if slots and now - changed >= patience_s:
                raise TooFewSlots(num_proc, slots, self._advice(num_proc, profile))
            if not slots and now - begin > start_timeout_s:
                raise StartTimeout(
                    f"the cluster gave the session no executor within {start_timeout_s:g} s; look at the master's page "
                    "or log for what it waits for, ask for smaller executors, or raise start_timeout_s"
                )
            time.sleep(_POLL_S)

    def _slots(self, profile: Any = None) -> int:
        context = self._spark.sparkContext._jsc.sc()
        default = context.resourceProfileManager().defaultResourceProfile()
        return int(context.maxNumConcurrentTasks(default if profile is None else profile._java_resource_profile))

    def _asked_for(self, profile: Any) -> int:
        """Return how many tasks could run at once if all executors came that the session asked for; 0: not known."""

        def number(key: str, default: float) -> float:
            return float(self._spark.conf.get(key, "") or default)

        manager = str(self._spark.conf.get("spark.master", ""))
        # Two is what YARN and Kubernetes start where nothing is said.
        executors = number("spark.executor.instances", 2 if manager.startswith(("yarn", "k8s")) else 0)
        cpus = number("spark.task.cpus", 1)
        of_executor = number("spark.executor.cores", 1) // cpus
        if gpus := gpus_of_task(self._spark) if profile is None else 1:
            of_executor = min(of_executor, gpus_of_executor(self._spark) // gpus)
        limit = number("spark.cores.max", 0) // cpus
        tasks = executors * of_executor
        return int(min(tasks, limit) if executors and limit else tasks or limit)

    def _advice(self, num_proc: int, profile: Any) -> str:
        if self.is_local:
            return f'start the session with .master("local[{num_proc}]"), or ask for fewer ranks'
        reason = ""
        if profile is not None or gpus_of_task(self._spark):
            reason = "each rank takes a GPU of its own: train on the CPU, or "
        return (
            f"{reason}give the session more executors or cores (spark.executor.instances, spark.executor.cores, "
            "spark.cores.max; GPUs: spark.executor.resource.gpu.amount), or ask for fewer ranks"
        )

    @contextmanager
    def driver_python(self) -> Iterator[None]:
        """Have workers run the driver's own Python, for the code that is handed to Spark inside; on a local master.

        Spark would run whatever "python3" is on the path.
        """
        if self.is_connect or not self.is_local:
            yield
            return
        context = self._spark.sparkContext
        before, context.pythonExec = context.pythonExec, sys.executable
        try:
            yield
        finally:
            context.pythonExec = before

    def collect(self, frame: Any, num_proc: int, start_timeout_s: float) -> list[Any]:
        """Collect a frame in a job that is cancelled when this call is left, by Ctrl-C too.

        Parameters
        ----------
        frame : pyspark.sql.DataFrame
            What to compute.
        num_proc : int
            Ranks in it; for the message.
        start_timeout_s : float
            How long the job may stand without a single running task.

        Returns
        -------
        list of pyspark.sql.Row

        Raises
        ------
        StartTimeout
            No task ran for `start_timeout_s`.
        """
        tag = _ConnectTag(self._spark) if self.is_connect else _ClassicTag(self._spark)
        job = _Job(self._spark, frame.collect, tag)
        try:
            job.start()
            idle_since = looked = time.monotonic()
            while not job.ended.wait(_POLL_S):
                now = time.monotonic()
                if now - looked < min(_LOOK_S, start_timeout_s / 4):
                    continue
                looked = now
                if job.tag.is_active():
                    idle_since = now
                elif now - idle_since > start_timeout_s:
                    raise StartTimeout(self._why_idle(num_proc, start_timeout_s))
            return job.result()
        finally:
            job.stop()

    def _why_idle(self, num_proc: int, start_timeout_s: float) -> str:
        cause = (
            f"Spark Connect does not tell how many tasks the server can run at once: it may be fewer than {num_proc}, "
            if self.is_connect
            else f"the cluster has {self._slots()} slots, but {num_proc} of them must be free at the same time: "
        )
        return (
            f"Spark started none of the {num_proc} ranks within {start_timeout_s:g} s; {cause}"
            "or other jobs hold them. Wait for those, ask for fewer ranks, or raise start_timeout_s"
        )


class _Job:
    """A call into Spark in a thread of its own, so that the caller's thread can be interrupted while it waits."""

    def __init__(self, spark: Any, call: Callable[[], list[Any]], tag: "_ClassicTag | _ConnectTag") -> None:
        from pyspark import InheritableThread

        self.tag = tag
        self.ended = threading.Event()
        self._call = call
        self._rows: list[Any] = []
        self._error: BaseException | None = None
        # It takes the caller's job group, scheduler pool and description along.
        self._thread = InheritableThread(self._work, session=spark, name="hvdspark-spark-job", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def result(self) -> list[Any]:
        if self._error is not None:
            raise self._error
        return self._rows

    def stop(self) -> None:
        """Cancel the job if it still runs, and wait for its end."""
        if not self.ended.is_set():
            self.tag.cancel()
            self.ended.wait(_STOP_PATIENCE_S)

    def _work(self) -> None:
        try:
            with self.tag.attached():
                self._rows = self._call()
        except BaseException as error:  # noqa: BLE001  raised again in the caller's thread
            self._error = error
        finally:
            self.ended.set()


class _ClassicTag:
    """A job tag of a classic session."""

    def __init__(self, spark: Any) -> None:
        self._context = spark.sparkContext
        self._name = f"hvdspark-{uuid.uuid4().hex}"

    @contextmanager
    def attached(self) -> Iterator[None]:
        self._context.addJobTag(self._name)
        try:
            yield
        finally:
            self._context.removeJobTag(self._name)

    def cancel(self) -> None:
        self._context.cancelJobsWithTag(self._name)

    def is_active(self) -> bool:
        """Whether a task of the tagged jobs runs now."""
        tracker = self._context._jsc.sc().statusTracker()
        for job in tracker.getJobIdsForTag(self._name):
            info = tracker.getJobInfo(job)
            for stage in info.get().stageIds() if info.isDefined() else ():
                state = tracker.getStageInfo(stage)
                if state.isDefined() and state.get().numActiveTasks() > 0:
                    return True
        return False


class _ConnectTag:
    """An operation tag of a Spark Connect session."""

    def __init__(self, spark: Any) -> None:
        self._spark = spark
        self._name = f"hvdspark-{uuid.uuid4().hex}"
        self._running = 0

    @contextmanager
    def attached(self) -> Iterator[None]:
        self._spark.addTag(self._name)
        self._spark.registerProgressHandler(self._note)
        try:
            yield
        finally:
            self._spark.removeProgressHandler(self._note)
            self._spark.removeTag(self._name)

    def cancel(self) -> None:
        self._spark.interruptTag(self._name)

    def is_active(self) -> bool:
        """Whether a task of this session ran when the server last spoke (it does every 2 s)."""
        return self._running > 0

    def _note(self, *, inflight_tasks: int, **_rest: Any) -> None:
        self._running = inflight_tasks
