"""Numba's cache of compiled functions, for processes that share it: one at a time, and never in the way of the work."""

import fcntl
import functools
import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from llvmlite.binding import get_host_cpu_features, get_host_cpu_name

__all__ = ["CarefulCache", "cache_directory"]

_log = logging.getLogger("hvdspark.kernels")


@functools.cache
def cache_directory() -> Path | None:
    """Return where compiled kernels are kept: a folder of this user's, named for the sources; None if there is none.

    Numba looks at the file of a kernel only, and would not see an edit of another one that it calls: hence a folder for
    every state of all sources, for each kind of CPU and version of Numba. ``HVDSPARK_KERNEL_CACHE`` names another place
    than the user's cache directory; an empty value keeps nothing.
    """
    given = os.environ.get("HVDSPARK_KERNEL_CACHE")
    if given == "":
        return None
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    kind = f"{numba.__version__} {get_host_cpu_name()} {sorted(get_host_cpu_features().items())}"
    digest = hashlib.sha256(b"".join([kind.encode(), *(source.read_bytes() for source in sources)])).hexdigest()[:16]
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        directory = (Path(given) if given else home / "hvdspark" / "kernels") / digest
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        # What is loaded from it is run: only a folder that nobody else may write to will do.
        status = directory.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022 or not os.access(directory, os.W_OK):
            return None
    except (OSError, RuntimeError):  # the second: a user without a home
        return None
    return directory


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
