"""Ranks inside the tasks of one Spark barrier stage."""

import functools
import secrets
import socket
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

from hvdspark_launch.barrier_rank import SCHEMA, Orders, outcomes_of, run_rank
from hvdspark_launch.base import KeptPartitions, Launcher, check_callable, check_num_proc
from hvdspark_launch.closure import dump_call
from hvdspark_launch.environment import check_extra
from hvdspark_launch.errors import LaunchError
from hvdspark_launch.facts import PACKAGES, versions_of
from hvdspark_launch.outcome import results
from hvdspark_launch.spark_failure import raise_for
from hvdspark_launch.spark_gpus import profile_of_one_gpu
from hvdspark_launch.spark_session import SparkSide

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["BarrierLauncher"]


@final
class BarrierLauncher(Launcher):
    """Runs each rank in a task of one barrier stage: in the Spark worker itself, beside its share of the rows.

    Spark starts all ranks at once or none, and ends all when one dies. The ranks meet once, through Spark, and tell
    each other host, versions and GPUs; rank 0 serves Horovod's rendezvous on the address by which Spark advertises
    it. Ranks on one host talk over its loopback interface. stdout and stderr of the ranks go where Spark puts them.

    **GPUs.** Where executors have GPUs, each rank gets one: by the session's own profile if that gives each task one,
    else by one of this stage (Spark allows it on standalone clusters, YARN and Kubernetes; elsewhere a warning says
    why not). Its address is named to the rank in the environment variable HVDSPARK_GPU_ADDRESS; two ranks of a host
    with the same are refused.

    **Threads.** OMP_NUM_THREADS, MKL_NUM_THREADS and a torch that is loaded already are set to each rank's share:
    spark.task.cpus where that is set, else the cores of the host divided by its ranks. The user's own OMP_NUM_THREADS
    counts before that: of `env`, of spark.executorEnv.OMP_NUM_THREADS, on a local master of the driver's environment.

    Works on classic sessions and under Spark Connect. Spark never retries such a stage: the caller runs again.

    Parameters
    ----------
    spark : pyspark.sql.SparkSession
        The session.
    start_timeout_s : float
        How long Spark may take to start a task, and each rank to wait for the others.
    stop_grace_s : float
        After a rank raised: how long the others may take to notice before Spark ends them.
    horovod_timeout_s : int
        How long Horovod waits for a rank to come to `hvd.init()`, or for a frozen process to answer.
    packages : iterable of str
        Packages whose versions must be the driver's on every worker.
    env : mapping, optional
        More environment variables for all ranks.
    gpus : bool
        False: ranks ask for no GPU, are given no address, and may be more than there are GPUs.
    """

    takes_rows = True

    def __init__(
        self,
        spark: Any,
        *,
        start_timeout_s: float = 60.0,
        stop_grace_s: float = 5.0,
        horovod_timeout_s: int = 60,
        packages: Iterable[str] = PACKAGES,
        env: Mapping[str, str] | None = None,
        gpus: bool = True,
    ) -> None:
        self._spark = spark
        self._start_timeout_s = start_timeout_s
        self._stop_grace_s = stop_grace_s
        self._horovod_timeout_s = horovod_timeout_s
        self._packages = tuple(packages)
        self._env = check_extra(env)
        self._gpus = gpus
        self._had_room_for = 0

    def check(self, num_proc: int) -> None:
        """Refuse more ranks than the session can run at once, and dynamic allocation; see `Launcher.check`."""
        check_num_proc(num_proc)
        side = SparkSide(self._spark)
        side.refuse_dynamic_allocation()
        had_room = num_proc <= self._had_room_for
        side.check_slots(num_proc, self._start_timeout_s, self._profile, had_room=had_room)
        self._had_room_for = max(self._had_room_for, num_proc)

    @functools.cached_property
    def _profile(self) -> Any:
        """What each task asks for; None: what the session says. Found once, so that a refusal is told once."""
        return profile_of_one_gpu(self._spark) if self._gpus else None

    def run(
        self,
        fn: Callable[..., Any],
        num_proc: int,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        rows: Any = None,
    ) -> list[Any]:
        """Run `fn` on `num_proc` tasks; see `Launcher.run`.

        `rows`: a DataFrame. It is brought to `num_proc` partitions, and rank r gets an iterator over the batches of
        partition r (possibly none) before `args`. It need not be read to its end. `KeptPartitions` of a DataFrame that
        has so many partitions already are not moved.
        """
        check_callable(fn)
        is_kept = isinstance(rows, KeptPartitions)
        rows = rows.frame if isinstance(rows, KeptPartitions) else rows
        if rows is not None and not hasattr(rows, "mapInArrow"):
            raise TypeError(f"rows must be a Spark DataFrame, not {type(rows).__name__}")
        self.check(num_proc)
        side = SparkSide(self._spark)
        orders = Orders(
            dump_call(fn, args, kwargs),
            num_proc,
            rows is not None,
            versions_of(self._packages),
            self._env,
            side.threads(self._env),
            self._gpus,
            self._start_timeout_s,
            self._stop_grace_s,
            self._horovod_timeout_s,
            secrets.token_hex(16),
        )
        nothing = self._spark.range(0, num_proc, 1, num_proc)
        source = nothing if rows is None else rows if is_kept else rows.repartition(num_proc)
        collected = self._collected(side, orders, source)
        if not collected and rows is not None and rows.isEmpty():
            # Spark sees beforehand that there is no row, and leaves the whole stage out.
            collected = self._collected(side, orders, nothing, without_rows=True)
        return results(outcomes_of(collected), num_proc)

    def _collected(self, side: SparkSide, orders: Orders, source: Any, *, without_rows: bool = False) -> list[Any]:
        def task(batches: "Iterator[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
            yield from run_rank(orders, iter(()) if without_rows else batches)

        with side.driver_python():
            frame = source.mapInArrow(task, SCHEMA, barrier=True, profile=self._profile)
        try:
            return side.collect(frame, orders.num_proc, self._start_timeout_s)
        except LaunchError:
            raise
        except Exception as error:
            if type(error).__name__ in ("AnalysisException", "ParseException"):
                raise  # of the rows: Spark's own words are about the user's query
            raise_for(error, socket.gethostname() if side.is_local else "an unknown host", orders.token)
