"""N ranks as threads of one process, for tests and for trying things out: real exchange, real failures, no launcher."""

import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from hvdspark.collectives.base import Collective
from hvdspark.collectives.halves import sum_of_halves
from hvdspark.collectives.intent import INTENT_BYTES, INTENT_FIELDS, Intent
from hvdspark.errors import CollectiveError, ConfigurationError, PeerFailed, RankLost

__all__ = ["ThreadsCollective", "inside_run_ranks", "open_here", "run_ranks"]

Result = TypeVar("Result")
_GRACE_S = 2.0  # for ranks to notice that the run is over, before they are called stuck


class _Board:
    """Where the ranks of one collective meet. Slots come in pairs: peers read one while their owner fills the other."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = threading.Lock()
        self._parts: dict[tuple[str, int], _Board] = {}
        self.barrier = threading.Barrier(size)
        self.rows = np.zeros((2, size, INTENT_FIELDS), np.int64)
        self.messages = [[np.empty(0, np.uint8)] * size for _ in range(2)]
        self.parcels: list[list[NDArray[np.uint8]]] = [[] for _ in range(size)]
        self.arrays: list[NDArray[Any] | None] = [None] * size
        self.total: NDArray[Any] = np.empty(0)
        self.failure = ""

    def fail(self, why: str) -> None:
        """Break every rank out of its wait; the first reason counts."""
        with self._lock:
            self.failure = self.failure or why
            parts = list(self._parts.values())
        self.barrier.abort()
        for part in parts:
            part.fail(why)

    def part(self, name: str, group: list[int]) -> "_Board":
        """Return the board of some of the ranks, the same for all of them."""
        with self._lock:
            part = self._parts.setdefault((name, group[0]), _Board(len(group)))
        if self.failure:
            part.fail(self.failure)
        return part

    def sum_up(self) -> None:
        """Add the arrays in rank order, so that a run can be repeated to the bit."""
        given = [array for array in self.arrays if array is not None]
        if given[0].dtype == np.float16:
            self.total = sum_of_halves(given)
            return
        self.total = given[0].copy()
        with np.errstate(all="ignore"):  # as on the wire: infinity and NaN are results, not warnings
            for array in given[1:]:
                self.total += array


class _World:
    """The ranks of one `run_ranks`. The k-th collective that each rank opens is the same one."""

    def __init__(self, size: int, ranks_per_host: int | None) -> None:
        self.size = size
        self._ranks_per_host = ranks_per_host
        self._lock = threading.Lock()
        self._boards: list[_Board] = []
        self._num_opened = [0] * size
        self._failure = ""

    def open(self, rank: int, timeout_s: float | None) -> "ThreadsCollective":
        """Open this rank's end of its next collective."""
        with self._lock:
            place = self._num_opened[rank]
            self._num_opened[rank] += 1
            if place == len(self._boards):
                self._boards.append(_Board(self.size))
            board = self._boards[place]
            if self._failure:
                board.fail(self._failure)
        return ThreadsCollective(board, **self._seat(rank), timeout_s=timeout_s)

    def _seat(self, rank: int) -> dict[str, Any]:
        host, width = socket.gethostname(), self._ranks_per_host
        if width is None:
            return {"rank": rank, "local_rank": rank, "local_size": self.size, "host": host}
        place, local_rank = divmod(rank, width)
        local_size = min(width, self.size - place * width)
        return {"rank": rank, "local_rank": local_rank, "local_size": local_size, "host": f"{host}-{place}"}

    def fail(self, why: str) -> None:
        """End every collective, also those that are opened later."""
        with self._lock:
            self._failure = self._failure or why
            for board in self._boards:
                board.fail(why)


class _Here(threading.local):
    """The rank that the current thread is, if any."""

    world: _World | None = None
    rank: int = 0


_here = _Here()


class ThreadsCollective(Collective):
    """One rank's end of a collective among threads; made by `run_ranks` and `open_here`.

    `allreduce_` adds in rank order.

    Parameters
    ----------
    board : _Board
        Where the ranks meet, shared by all of them.
    rank, local_rank, local_size, host
        This thread's place; hosts may be made up.
    timeout_s : float, optional
        Seconds to wait for the other ranks.
    """

    name: ClassVar[str] = "threads"

    def __init__(
        self,
        board: _Board,
        *,
        rank: int,
        local_rank: int,
        local_size: int,
        host: str,
        timeout_s: float | None = None,
    ) -> None:
        super().__init__(
            rank=rank, size=board.size, local_rank=local_rank, local_size=local_size, host=host, timeout_s=timeout_s
        )
        self._board = board
        self._turn = 0
        self._own = [np.empty(0, np.uint8), np.empty(0, np.uint8)]

    def _meet(self, intent: Intent, message: NDArray[np.uint8]) -> tuple[NDArray[np.int64], list[NDArray[np.uint8]]]:
        # A rank fills slot `turn` again two meetings from now. By then all peers have been in the meeting between,
        # and so given up the views they had of it.
        self._turn ^= 1
        if self._own[self._turn].size < message.size:
            self._own[self._turn] = np.empty(message.size, np.uint8)
        given = self._own[self._turn][: message.size]
        given[:] = message
        given.flags.writeable = False
        self._board.rows[self._turn, self.rank] = intent
        self._board.messages[self._turn][self.rank] = given
        self._sent.add(INTENT_BYTES + message.size)
        self._wait(str(intent))
        return self._board.rows[self._turn], list(self._board.messages[self._turn])

    def _alltoall(self, messages: Sequence[NDArray[np.uint8]], lengths: list[int]) -> list[NDArray[np.uint8]]:  # noqa: ARG002 - arrays know theirs
        given = [message.copy() for message in messages]
        for rank, message in enumerate(given):
            message.flags.writeable = False
            self._sent.add(message.size if rank != self.rank else 0)
        # All peers are past their reading of the last ones: they were at the meeting before this.
        self._board.parcels[self.rank] = given
        self._wait("alltoall")
        return [parcels[self.rank] for parcels in self._board.parcels]

    def _allreduce(self, array: NDArray[Any]) -> None:
        self._board.arrays[self.rank] = array
        self._wait("allreduce_")
        if self.rank == 0:
            self._board.sum_up()
        self._wait("allreduce_")
        self._board.arrays[self.rank] = None
        array[:] = self._board.total

    def _broadcast(self, array: NDArray[Any], root: int) -> None:
        if self.rank == root:
            self._board.total = array.copy()
        self._wait("broadcast_")
        array[:] = self._board.total
        # The next broadcast's root may be quicker than this copy.
        self._wait("broadcast_")

    def _part(self, groups: list[list[int]], name: str, *, on_one_host: bool) -> "ThreadsCollective | None":
        group = next((group for group in groups if self.rank in group), None)
        if group is None:
            return None
        seat = self._seat(group, on_one_host=on_one_host)
        del seat["size"]
        return ThreadsCollective(self._board.part(name, group), **seat)

    def _release(self) -> None:
        self._own = [np.empty(0, np.uint8), np.empty(0, np.uint8)]
        self._board.parcels[self.rank] = []

    def _abandon(self, cause: BaseException | None) -> None:
        self._board.fail(f"rank {self.rank} gave up{_told(cause)}")

    def _wait(self, operation: str) -> None:
        try:
            self._board.barrier.wait(self.timeout_s)
        except threading.BrokenBarrierError:
            why = self._board.failure or f"not all ranks came within {self.timeout_s} s"
            raise RankLost(f"rank {self.rank} of {self.size} in {operation}: {why}") from None


def inside_run_ranks() -> bool:
    """Tell whether the current thread is a rank of `run_ranks`."""
    return _here.world is not None


def open_here(*, timeout_s: float | None = None) -> ThreadsCollective:
    """Open another collective among the ranks of the `run_ranks` that the current thread belongs to.

    Every rank must open as many, in the same order.

    Raises
    ------
    ConfigurationError
        The current thread is no rank of `run_ranks`.
    """
    if _here.world is None:
        raise ConfigurationError(
            'the collective "threads" exists only inside run_ranks(function, size), in the thread of a rank; '
            'use "solo" for one rank, or start the program with horovodrun or mpirun'
        )
    return _here.world.open(_here.rank, timeout_s)


def run_ranks(
    fn: Callable[..., Result], size: int, *args: Any, timeout_s: float = 60.0, ranks_per_host: int | None = None
) -> list[Result]:
    """Call ``fn(collective, *args)`` on `size` threads, each with its own rank of one collective.

    A rank that raises breaks the others out of their exchange. Threads cannot be killed: a rank that is stuck outside
    the collective when the time is up is left behind as a daemon thread, which does not keep the interpreter alive.

    Parameters
    ----------
    fn : callable
        Called once a rank. The collective is closed after it, or aborted if it raises.
    size : int
        How many ranks.
    args : Any
        Handed to every rank, shared between them.
    timeout_s : float
        Seconds for the whole run.
    ranks_per_host : int, optional
        Pretend that each so many ranks live on a host of their own. None: all live on this one.

    Returns
    -------
    list
        What each rank returned, in rank order.

    Raises
    ------
    ConfigurationError
        `size` or `ranks_per_host` is less than 1.
    BaseException
        The first exception of a rank that is not a consequence of another's, with the rank's number as a note.
    CollectiveError
        The time is up; names the ranks that are stuck.
    """
    if size < 1:
        raise ConfigurationError(f"run_ranks: size must be at least 1, got {size!r}")
    if ranks_per_host is not None and ranks_per_host < 1:
        raise ConfigurationError(f"run_ranks: ranks_per_host must be at least 1 or None, got {ranks_per_host!r}")
    world = _World(size, ranks_per_host)
    results: dict[int, Result] = {}
    failures: list[BaseException] = []

    def live(rank: int) -> None:
        _here.world, _here.rank = world, rank
        try:
            with world.open(rank, None) as collective:
                results[rank] = fn(collective, *args)
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            error.add_note(f"raised by rank {rank} of {size} in run_ranks")
            failures.append(error)
            world.fail(f"rank {rank} failed{_told(error)}")

    threads = [
        threading.Thread(target=live, args=(rank,), name=f"hvdspark-rank-{rank}", daemon=True) for rank in range(size)
    ]
    for thread in threads:
        thread.start()
    stuck = _join(threads, world, timeout_s)
    causes = [error for error in failures if not isinstance(error, PeerFailed)]
    if causes:
        raise causes[0]
    if stuck:
        raise CollectiveError(f"run_ranks: {', '.join(stuck)} did not end within {timeout_s} s")
    if failures:
        raise failures[0]
    return [results[rank] for rank in range(size)]


def _join(threads: list[threading.Thread], world: _World, timeout_s: float) -> list[str]:
    """Wait for all; return the ranks that did not end in time, only those outside the collective if there are such."""
    deadline = time.monotonic() + timeout_s
    try:
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
    except BaseException:  # Ctrl-C in the caller ends the ranks too
        world.fail("the caller of run_ranks was interrupted")
        raise
    late = _alive(threads)
    if not late:
        return []
    world.fail(f"the time limit of run_ranks, {timeout_s} s, was reached")
    deadline = time.monotonic() + _GRACE_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return _alive(threads) or late


def _alive(threads: list[threading.Thread]) -> list[str]:
    return [f"rank {rank}" for rank, thread in enumerate(threads) if thread.is_alive()]


def _told(cause: BaseException | None) -> str:
    return "" if cause is None else f": {type(cause).__name__}: {cause}"
