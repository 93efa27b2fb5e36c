"""Plain threads for kernels that hold no GIL: ranges of an array, one of them on the caller's own thread.

Ranks can be threads of one process, so several callers may run kernels at the same time. Numba's own thread layers do
not allow that everywhere; a pool of ordinary threads does.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["default_num_threads", "ranges", "run"]

_Result = TypeVar("_Result")

_MAX_THREADS = 8  # a few cores saturate the memory that these kernels wait for
_MIN_RANGE = 1 << 18  # elements; below it, waking a thread costs more than it saves (some 50 microseconds each)


class _Pool:
    """The threads of this process, started when they are first needed."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the threads: after a fork the child has none of them, and a lock may be held by one that is gone."""
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    def submit(self, function: Callable[..., _Result], begin: int, end: int) -> "Future[_Result]":
        with self._lock:
            if self._executor is None:
                workers = max(_MAX_THREADS, os.cpu_count() or 1)
                self._executor = ThreadPoolExecutor(workers, thread_name_prefix="hvdspark-kernel")
            return self._executor.submit(function, begin, end)


_pool = _Pool()
os.register_at_fork(after_in_child=_pool.reset)


def default_num_threads() -> int:
    """Return the number of threads a kernel takes unless told: the CPUs this process may use, at most 8."""
    return min(_MAX_THREADS, len(os.sched_getaffinity(0)))


def ranges(n: int, num_threads: int | None, unit: int, least: int | None = None) -> list[tuple[int, int]]:
    """Cut ``0..n`` into at most `num_threads` ranges ``(begin, end)``, in order.

    Parameters
    ----------
    n
        Number of elements.
    num_threads
        The most ranges to make; None for `default_num_threads`. A small `n` is not cut.
    unit
        Every range but the last is a multiple of this many elements long.
    least
        Elements that are worth waking a thread for; None: so many that memory would keep a thread busy.
    """
    if num_threads is not None and num_threads < 1:
        raise ValueError(f"num_threads must be at least 1, not {num_threads}")
    least = _MIN_RANGE if least is None else least
    if num_threads == 1 or n < 2 * least:
        return [(0, n)]
    wanted = default_num_threads() if num_threads is None else num_threads
    units = -(-n // unit)
    parts = min(wanted, n // least, units)
    cuts = [units * part // parts * unit for part in range(parts)]
    return list(zip(cuts, [*cuts[1:], n], strict=True))


def run(function: Callable[[int, int], _Result], parts: list[tuple[int, int]]) -> list[_Result]:
    """Call ``function(begin, end)`` for every range and return the results in order of the ranges.

    The first range runs on the caller's thread. All ranges have ended when this returns or raises.
    """
    if len(parts) == 1:
        return [function(*parts[0])]
    futures: list[Future[_Result]] = []
    try:
        futures.extend(_pool.submit(function, begin, end) for begin, end in parts[1:])
        first = function(*parts[0])
    finally:
        _wait(futures)  # a failure is raised by result() below
    return [first, *(future.result() for future in futures)]


def _wait(futures: "list[Future[_Result]]") -> None:
    """Wait for all, also through Ctrl-C, which is raised afterwards: they write to the caller's arrays."""
    try:
        for future in futures:
            future.exception()
    except BaseException:
        _wait(futures)
        raise
