"""Numba's cache of compiled functions, for processes that share it: one at a time, and never in the way of the work."""

import fcntl
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["CarefulCache"]

_log = logging.getLogger("hvdspark.kernels")


class CarefulCache:
    """Wraps the cache of one function.

    Numba reads an index, picks a free file, and writes both, without a lock: two processes that start together can pick
    the same file, and load each other's code ever after. And a full disk or a damaged file would be an error of the
    kernel that is called.

    Parameters
    ----------
    cache
        What Numba made.
    lock
        A file that is locked while the cache is read or written.
    """

    def __init__(self, cache: Any, lock: Path) -> None:
        self._wrapped = cache
        self._lock = lock

    def load_overload(self, *arguments: Any) -> Any:
        """Return a compiled function, or None if there is none that can be read."""
        return self._locked(self._wrapped.load_overload, *arguments)

    def save_overload(self, *arguments: Any) -> None:
        """Keep a compiled function, if that can be done."""
        self._locked(self._wrapped.save_overload, *arguments)

    def _locked(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            with self._lock.open("a") as file:
                fcntl.flock(file, fcntl.LOCK_EX)  # given back when the file is closed, also by a process that dies
                return call(*arguments)
        except Exception as error:  # noqa: BLE001  whatever it is: the function can be compiled instead
            _log.warning("the kernel cache in %s cannot be used (%r): delete the folder", self._lock.parent, error)
            return None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._wrapped, name)
