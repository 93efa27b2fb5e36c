"""Ranks started by Horovod's own `horovod.spark.run`."""

import logging
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, final

from hvdspark_launch.base import Launcher, check_callable, check_num_proc, refuse_rows
from hvdspark_launch.closure import dump_call
from hvdspark_launch.environment import LOOPBACK, check_extra, interface_of
from hvdspark_launch.errors import LaunchError, RankFailed, StartTimeout
from hvdspark_launch.facts import PACKAGES, versions_of
from hvdspark_launch.horovod_spark_rank import Orders, run_rank
from hvdspark_launch.outcome import Outcome, how_ended, results
from hvdspark_launch.spark_gpus import GPU_AMOUNT, gpus_of_executor, gpus_of_task
from hvdspark_launch.spark_session import SparkSide

__all__ = ["HorovodSparkLauncher"]

_LOG = logging.getLogger(__name__)
_EXIT = re.compile(r"Process name: (\d+)\s+Exit code: (-?\d+)")


@final
class HorovodSparkLauncher(Launcher):
    """Runs each rank in a process that an ordinary Spark task starts, through `horovod.spark.run` with Gloo.

    Slower to start than `BarrierLauncher`, and without rows: a rank is a subprocess of the Spark worker. It needs no
    barrier stage, so it also runs where dynamic allocation is on. It needs a classic session, and the main thread:
    Horovod installs signal handlers for the run. The ranks' stdout and stderr come to the driver's. Unlike a barrier
    stage, it does not end the others when a rank's process is killed: they end at their next collective.

    A rank gets the GPU that the session's own profile gives to its task (spark.task.resource.gpu.amount=1), named in
    HVDSPARK_GPU_ADDRESS: a stage of Horovod's cannot ask for one. Threads are set as by `BarrierLauncher`, and
    NUMBA_NUM_THREADS with them.

    Parameters
    ----------
    spark : pyspark.sql.SparkSession
        A classic session, the active one.
    start_timeout_s : int
        How long Spark may take to start the tasks.
    stop_grace_s : float
        After a rank raised: how long the others may take to notice before they are ended.
    horovod_timeout_s : int
        How long Horovod waits for a rank to come to `hvd.init()`, or for a frozen process to answer.
    interface : str, optional
        The network interface that ranks talk over, which must have the same name on all hosts. None: the loopback
        on a local master, else what Horovod finds by trying.
    packages : iterable of str
        Packages whose versions must be the driver's on every worker.
    env : mapping, optional
        More environment variables for all ranks.
    gpus : bool
        False: ranks are given no address of a GPU.

    Raises
    ------
    LaunchError
        The session is one of Spark Connect.
    """

    def __init__(
        self,
        spark: Any,
        *,
        start_timeout_s: int = 60,
        stop_grace_s: float = 5.0,
        horovod_timeout_s: int = 60,
        interface: str | None = None,
        packages: Iterable[str] = PACKAGES,
        env: Mapping[str, str] | None = None,
        gpus: bool = True,
    ) -> None:
        self._spark = spark
        self._start_timeout_s = start_timeout_s
        self._stop_grace_s = stop_grace_s
        self._horovod_timeout_s = horovod_timeout_s
        self._interface = interface
        self._packages = tuple(packages)
        self._env = check_extra(env)
        self._gpus = gpus
        self._had_room_for = 0
        if SparkSide(spark).is_connect:
            raise LaunchError(
                "horovod.spark.run needs a classic Spark session; under Spark Connect take BarrierLauncher"
            )

    def check(self, num_proc: int) -> None:
        """Refuse more ranks than the session can run at once, and any thread but the main one; see `Launcher.check`."""
        check_num_proc(num_proc)
        if threading.current_thread() is not threading.main_thread():
            raise LaunchError(
                "horovod.spark.run installs signal handlers, which only the main thread may; "
                "call HorovodSparkLauncher.run from there, or take BarrierLauncher"
            )
        side = SparkSide(self._spark)
        if not side.allocates_dynamically:
            side.check_slots(num_proc, self._start_timeout_s, had_room=num_proc <= self._had_room_for)
            self._had_room_for = max(self._had_room_for, num_proc)

    def run(
        self,
        fn: Callable[..., Any],
        num_proc: int,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        rows: Any = None,
    ) -> list[Any]:
        """Run `fn` on `num_proc` processes; see `Launcher.run`. Call it from the main thread."""
        check_callable(fn)
        refuse_rows(self, rows)
        self.check(num_proc)
        side = SparkSide(self._spark)
        if self._gpus and gpus_of_executor(self._spark) and not gpus_of_task(self._spark):
            _LOG.warning(
                "horovod.spark.run cannot ask for GPUs, and the session gives a task none: ranks take theirs by local "
                "rank, whoever else uses them; start the session with %s=1, or take BarrierLauncher",
                GPU_AMOUNT,
            )
        orders = Orders(
            dump_call(fn, args, kwargs),
            versions_of(self._packages),
            self._stop_grace_s,
            self._env,
            side.threads(self._env),
            self._gpus,
        )
        interface = self._interface or (interface_of(LOOPBACK) if side.is_local else None)
        return results(self._outcomes(side, orders, num_proc, interface), num_proc)

    def _outcomes(self, side: SparkSide, orders: Orders, num_proc: int, interface: str | None) -> list[Outcome]:
        import horovod.spark
        from horovod.runner.common.util.timeout import TimeoutException

        try:
            with side.driver_python(), _signals_kept(), _job_errors_dropped():
                answers = horovod.spark.run(
                    run_rank,
                    args=(orders,),
                    num_proc=num_proc,
                    start_timeout=self._start_timeout_s,
                    use_gloo=True,  # the default is MPI where Horovod has it, and that wants mpirun on the driver
                    env={**self._env, "HOROVOD_GLOO_TIMEOUT_SECONDS": str(self._horovod_timeout_s)},
                    stdout=sys.stdout,
                    stderr=sys.stderr,
                    verbose=0,
                    nics={interface} if interface else None,
                )
        except TimeoutException as error:
            raise StartTimeout(
                f"horovod.spark.run had not {num_proc} ranks running after {self._start_timeout_s} s: {error}"
            ) from None
        except RuntimeError as error:
            _raise_for(error, socket.gethostname() if side.is_local else "an unknown host")
        return [Outcome.from_bytes(answer) for answer in answers if answer is not None]


def _raise_for(error: RuntimeError, host: str) -> NoReturn:
    """Raise what it means that a rank's process ended before it had an outcome."""
    found = _EXIT.search(str(error))
    if found is None:
        raise LaunchError(f"horovod.spark.run failed: {error}") from error
    rank, code = int(found.group(1)), int(found.group(2))
    raise RankFailed(rank, host, f"{how_ended(code)} before fn returned") from None


@contextmanager
def _job_errors_dropped() -> Iterator[None]:
    """Keep Horovod's job thread from printing a long Java trace when its job is cancelled after a rank died."""
    before = threading.excepthook

    def hook(args: threading.ExceptHookArgs) -> None:
        if args.thread is None or "run_spark" not in args.thread.name:
            before(args)

    threading.excepthook = hook
    try:
        yield
    finally:
        threading.excepthook = before


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Put back the signal handlers that Horovod replaces, and raise the KeyboardInterrupt that its handler swallows."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.settimeout(0)
        writer.settimeout(0)
        # Python writes the number of each signal there, whatever the handler does with it.
        previous = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield
        except Exception:
            if signal.SIGINT in _received(reader):
                raise KeyboardInterrupt from None
            raise
        finally:
            signal.set_wakeup_fd(previous)
            for number, handler in before.items():
                signal.signal(number, handler)


def _received(reader: socket.socket) -> bytes:
    try:
        return reader.recv(4096)
    except BlockingIOError:
        return b""
