"""A bound on the copies of a model that one host holds at once, whoever started the processes that hold them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Slots"]

_WAIT_S = 0.02


@dataclass(frozen=True)
class Slots:
    """Places on each host, of which a process holds one at a time. Plain data, carried to the workers.

    A place is a locked file in the temporary folder: processes that see the same folder share it, a lock ends with its
    process, and the last one to use a place removes its file.

    Parameters
    ----------
    name
        Of what is bounded; only letters, digits and dashes.
    places
        How many there are on a host.
    """

    name: str
    places: int

    @contextlib.contextmanager
    def hold(self) -> Iterator[int]:
        """Wait for a place, and hold it in the block; yields its number."""
        while True:
            for place in range(self.places):
                path = Path(tempfile.gettempdir(), f"hvdspark-{self.name}-{place}.lock")
                file = _locked(path)
                if file is not None:
                    try:
                        yield place
                    finally:
                        path.unlink()  # while it is locked: who opened it meanwhile sees that it is gone
                        os.close(file)
                    return
            time.sleep(_WAIT_S)


def _locked(path: Path) -> int | None:
    """Return a file descriptor that locks the path, or None where another process has it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.stat().st_ino == os.fstat(file).st_ino:
            return file
    except (BlockingIOError, FileNotFoundError):  # held by another, or removed since it was opened
        pass
    os.close(file)
    return None
