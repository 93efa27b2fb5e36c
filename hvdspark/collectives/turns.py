"""Whose turn it is: one thread of a rank uses a collective and its parts at a time."""

import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from hvdspark.errors import CollectiveError

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
        self._holder = ""
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

    @contextmanager
    def taken(self, operation: str) -> Iterator[None]:
        """Wait for what was started, then keep other threads out.

        Raises
        ------
        CollectiveError
            A thread that was not started by `start` is at an operation.
        """
        if self._started is not None and threading.get_ident() != self._worker_id:
            wait([self._started])  # what it raised is for whoever started it
            self._started = None
        if not self._lock.acquire(blocking=False):
            raise CollectiveError(
                f"{operation}: {self._holder} is using this collective, and a second thread at the same time could "
                "meet the other ranks in another order there: let one thread use it, or open a collective for each "
                "thread, on all ranks in the same order"
            )
        try:
            self._holder = f"the thread {threading.current_thread().name!r}, in {operation},"
            yield
        finally:
            self._lock.release()

    def end(self, user: object) -> None:
        """Let the thread go once it is idle, unless only a part ends."""
        if self._worker is not None and user is self._owner():
            self._worker.shutdown(wait=False)

    def _note_worker(self) -> None:
        self._worker_id = threading.get_ident()
