"""Whose turn it is: one thread of a rank uses a collective and its parts at a time."""

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from types import TracebackType
from typing import Any, TypeVar

from hvdspark.errors import CollectiveError, RankLost

__all__ = ["Turns"]

Result = TypeVar("Result")


class Turns:
    """The order among the threads of one rank, the same on all ranks.

    Work that was started comes before whatever other threads call after the start, however long it takes: on every rank
    its operations then stand at the same place. Two threads that nobody has put in an order could meet the other ranks
    in either, so the second is refused.

    Parameters
    ----------
    owner : object
        The collective, whose parts take their turns here too.
    """

    def __init__(self, owner: object) -> None:
        self._owner = weakref.ref(owner)
        self._lock = threading.RLock()
        self._holder: tuple[threading.Thread, str] | None = None
        self._worker: ThreadPoolExecutor | None = None
        self._worker_id: int | None = None
        self._started: Future[Any] | None = None

    def start(self, work: Callable[[], Result]) -> Future[Result]:
        """Do work on a thread of its own, whose turn it is until the work is done."""
        if self._worker is None:
            self._worker = ThreadPoolExecutor(1, thread_name_prefix="hvdspark-exchange", initializer=self._note_worker)
        future = self._worker.submit(work)
        self._started = future  # one thread: what was started earlier is done when this is
        return future

    def taken(self, operation: str, note_loss: Callable[[RankLost], None]) -> "_Turn":
        """Wait for what was started, then keep other threads out of the block.

        Parameters
        ----------
        operation : str
            For the error.
        note_loss : callable
            Called where the block raises `RankLost`, with that.

        Raises
        ------
        CollectiveError
            A thread that was not started by `start` is at an operation.
        """
        return _Turn(self, operation, note_loss)

    def take(self, operation: str) -> None:
        """Begin a turn; `taken` does it, and gives it back."""
        if self._started is not None and threading.get_ident() != self._worker_id:
            wait([self._started])  # what it raised is for whoever started it
            self._started = None
        if not self._lock.acquire(blocking=False):
            raise CollectiveError(
                f"{operation}: {self._told()} is using this collective, and a second thread at the same time could "
                "meet the other ranks in another order there: let one thread use it, or open a collective for each "
                "thread, on all ranks in the same order"
            )
        self._holder = threading.current_thread(), operation

    def give_back(self) -> None:
        """End a turn."""
        self._lock.release()

    def _told(self) -> str:
        if self._holder is None:  # it has taken the lock this very moment
            return "another thread"
        thread, operation = self._holder
        return f"the thread {thread.name!r}, in {operation},"

    def end(self, user: object) -> None:
        """Let the thread go once it is idle, unless only a part ends."""
        if self._worker is not None and user is self._owner():
            self._worker.shutdown(wait=False)

    def _note_worker(self) -> None:
        self._worker_id = threading.get_ident()


class _Turn:
    """A block of one thread's. A generator would take three times as long, at every operation."""

    __slots__ = ("_note_loss", "_operation", "_turns")

    def __init__(self, turns: Turns, operation: str, note_loss: Callable[[RankLost], None]) -> None:
        self._turns = turns
        self._operation = operation
        self._note_loss = note_loss

    def __enter__(self) -> None:
        self._turns.take(self._operation)

    def __exit__(self, _kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._turns.give_back()
        if isinstance(error, RankLost):
            self._note_loss(error)
