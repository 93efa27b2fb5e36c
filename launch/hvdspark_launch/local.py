"""Ranks as processes of this host."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from hvdspark_launch.base import Launcher, check_callable, check_num_proc, refuse_rows
from hvdspark_launch.closure import dump_call
from hvdspark_launch.environment import (
    LOOPBACK,
    check_extra,
    horovod_variables,
    interface_of,
    places,
    torch_variables,
)
from hvdspark_launch.errors import LaunchError, StartTimeout
from hvdspark_launch.outcome import Outcome, how_ended, results
from hvdspark_launch.ports import ReservedPort
from hvdspark_launch.rendezvous import Rendezvous
from hvdspark_launch.threads import FRESH_PROCESS, Threads

__all__ = ["LocalLauncher"]

_POLL_S = 0.02
_TERM_GRACE_S = 2.0


@final
class LocalLauncher(Launcher):
    """Runs each rank in a fresh Python process of this host.

    The caller's script needs no `if __name__ == "__main__"` guard. Ranks write to the caller's stdout and stderr.
    They end with the caller's process, however that ends (on Linux at once, elsewhere within a second).

    Parameters
    ----------
    start_timeout_s : float
        How long the interpreters may take to come up.
    stop_grace_s : float
        How long ranks may take to end by themselves before they are killed: after one failed, or all have returned.
    horovod_timeout_s : int
        How long Horovod waits for a rank to come to `hvd.init()`, or for a frozen process to answer.
    env : mapping, optional
        More environment variables for all ranks. Where neither this nor the caller's environment sets
        OMP_NUM_THREADS, the cores are shared out among the ranks; MKL_NUM_THREADS and NUMBA_NUM_THREADS follow it.
    """

    def __init__(
        self,
        *,
        start_timeout_s: float = 60.0,
        stop_grace_s: float = 5.0,
        horovod_timeout_s: int = 60,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self._start_timeout_s = start_timeout_s
        self._stop_grace_s = stop_grace_s
        self._horovod_timeout_s = horovod_timeout_s
        self._env = check_extra(env)

    def check(self, num_proc: int) -> None:
        """Refuse what is no number of ranks; a host runs as many processes as it is asked for."""
        check_num_proc(num_proc)

    def run(
        self,
        fn: Callable[..., Any],
        num_proc: int,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        rows: Any = None,
    ) -> list[Any]:
        """Run `fn` on `num_proc` processes; see `Launcher.run`."""
        check_callable(fn)
        refuse_rows(self, rows)
        self.check(num_proc)
        call = dump_call(fn, args, kwargs)
        # mkdtemp's folder is of mode 0700: what is unpickled from it was written by this user.
        with (
            tempfile.TemporaryDirectory(prefix="hvdspark-") as folder,
            Rendezvous(LOOPBACK) as rendezvous,
            ReservedPort(LOOPBACK) as store,
        ):
            (Path(folder) / "call").write_bytes(call)
            with self._started(Path(folder), num_proc, rendezvous, store.port) as ranks:
                self._await_start(ranks)
                outcomes = self._await_end(ranks)
        return results(outcomes, num_proc)

    @contextmanager
    def _started(self, folder: Path, num_proc: int, rendezvous: Rendezvous, store_port: int) -> Iterator[list["_Rank"]]:
        placed = places([LOOPBACK] * num_proc)
        rendezvous.expect(placed)
        interface = interface_of(LOOPBACK)
        given = {**os.environ, **self._env}
        threads = Threads(given.get("OMP_NUM_THREADS")).variables(num_proc, FRESH_PROCESS, given)
        ranks: list[_Rank] = []
        try:
            for place in placed:
                variables = horovod_variables(
                    place,
                    rendezvous=(rendezvous.address, rendezvous.port),
                    interface=interface,
                    timeout_s=self._horovod_timeout_s,
                )
                variables |= torch_variables(place, store=(LOOPBACK, store_port), interface=interface)
                environment = {**given, **threads, **variables}
                ranks.append(_start(folder, place.rank, environment))
            yield ranks
        finally:
            _stop(ranks)

    def _await_start(self, ranks: Sequence["_Rank"]) -> None:
        deadline = time.monotonic() + self._start_timeout_s
        while late := [rank for rank in ranks if rank.process.poll() is None and not rank.started.exists()]:
            if time.monotonic() > deadline:
                names = ", ".join(str(rank.number) for rank in late)
                raise StartTimeout(
                    f"the Python process of rank {names} was not up after {self._start_timeout_s:g} s; "
                    "raise start_timeout_s if this host is busy"
                )
            time.sleep(_POLL_S)

    def _await_end(self, ranks: Sequence["_Rank"]) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        deadline: float | None = None
        while len(outcomes) < len(ranks) and (deadline is None or time.monotonic() < deadline):
            for rank in ranks:
                if rank.number not in outcomes and rank.has_ended:
                    outcome = outcomes[rank.number] = rank.outcome()
                    if not outcome.ok and deadline is None:
                        deadline = time.monotonic() + self._stop_grace_s
            time.sleep(_POLL_S)
        # What fn returned counts; a thread that it left behind may keep its process only so long.
        deadline = deadline or time.monotonic() + self._stop_grace_s
        while any(rank.process.poll() is None for rank in ranks) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        return list(outcomes.values())


@dataclass(frozen=True)
class _Rank:
    number: int
    process: "subprocess.Popen[bytes]"
    started: Path
    ended: Path

    @property
    def has_ended(self) -> bool:
        """Whether the function has, or its process."""
        return self.ended.exists() or self.process.poll() is not None

    def outcome(self) -> Outcome:
        """Return how the rank, which has ended, ended."""
        if self.ended.exists():
            return Outcome.from_bytes(self.ended.read_bytes())
        summary = f"{how_ended(self.process.returncode)} before fn returned"
        return Outcome(self.number, socket.gethostname(), ok=False, time=time.time(), summary=summary)


def _start(folder: Path, number: int, environment: Mapping[str, str]) -> _Rank:
    started, ended = folder / f"started-{number}", folder / f"ended-{number}"
    orders = {
        "rank": number,
        "host": socket.gethostname(),
        "parent": os.getpid(),
        "call": str(folder / "call"),
        "started": str(started),
        "ended": str(ended),
    }
    # The rank finds modules where the caller does: those of the script's folder, and what was put on the path by hand.
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    try:
        process = subprocess.Popen(  # noqa: S603  our own interpreter and module
            [sys.executable, "-P", "-m", "hvdspark_launch.local_rank", json.dumps(orders)],
            env={**environment, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            # Ctrl-C goes to the caller alone, which then stops the ranks; a rank's own children are in its group.
            start_new_session=True,
        )
    except OSError as error:
        raise LaunchError(f"the process of rank {number} cannot be started: {error}") from error
    return _Rank(number, process, started, ended)


def _stop(ranks: Sequence[_Rank]) -> None:
    """End every process that is left, with its children: SIGTERM, then SIGKILL."""
    running = [rank for rank in ranks if rank.process.poll() is None]
    for rank in running:
        _signal(rank, signal.SIGTERM)
    deadline = time.monotonic() + _TERM_GRACE_S
    while any(rank.process.poll() is None for rank in running) and time.monotonic() < deadline:
        time.sleep(_POLL_S)
    for rank in ranks:
        # Also of those that ended: their children may be left.
        _signal(rank, signal.SIGKILL)
        rank.process.wait()


def _signal(rank: _Rank, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # the whole group has ended: what was wanted
        os.killpg(rank.process.pid, number)
