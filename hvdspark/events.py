"""What every rank records while it works: one JSON line an event, in the run directory, for anyone to follow.

A file a rank, ``events/rank-00000.jsonl``. Each line is an object with ``time`` (seconds since 1970), ``rank``,
``kind`` and what belongs to that kind. Files are used, not Spark's accumulators: those show nothing on the driver
before a task ends.
"""

import json
import math
import time
from collections.abc import Iterator
from typing import Any, Self

from hvdspark import storage

__all__ = ["EventLog", "EventReader", "events_path"]

_REMOTE_INTERVAL_S = 5.0  # object stores cannot append: the file is put anew, and every put costs


def events_path(run_directory: str, rank: int) -> str:
    """Return where a rank writes its events."""
    return storage.join(run_directory, "events", f"rank-{rank:05d}.jsonl")


class EventLog:
    """Records one rank's events. A context manager.

    Parameters
    ----------
    run_directory : str
        Path or URL of the run. In a local folder each event is there at once; at other URLs the file is put anew every
        five seconds, and at the end.
    rank : int
        Whose events these are.
    """

    def __init__(self, run_directory: str, rank: int) -> None:
        self._path = events_path(run_directory, rank)
        self._rank = rank
        storage.make_directories(storage.join(run_directory, "events"))
        self._log = storage.LineLog(self._path) if storage.is_local(self._path) else None
        self._lines: list[str] = []
        self._last_put = 0.0

    def write(self, kind: str, **facts: Any) -> None:
        """Record one event. NaN and infinity become null, for JSON has neither."""
        event = {"time": round(time.time(), 3), "rank": self._rank, "kind": kind, **facts}
        event = {name: _json_able(value) for name, value in event.items()}
        if self._log is not None:
            self._log.append(event)
            return
        self._lines.append(json.dumps(event, allow_nan=False) + "\n")
        if time.monotonic() - self._last_put > _REMOTE_INTERVAL_S:
            self._put()

    def _put(self) -> None:
        self._last_put = time.monotonic()
        storage.write_bytes(self._path, "".join(self._lines).encode())

    def close(self) -> None:
        """Make sure that every event is in the file."""
        if self._log is not None:
            self._log.close()
        else:
            self._put()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class EventReader:
    """Follows one rank's events; `read` yields what has come since the last call.

    Parameters
    ----------
    run_directory : str
        Path or URL of the run.
    rank : int
        Whose events to follow.
    """

    def __init__(self, run_directory: str, rank: int = 0) -> None:
        self._path = events_path(run_directory, rank)
        self._offset = 0

    def read(self) -> Iterator[dict[str, Any]]:
        """Yield the events that were completed since the last call (none if there is no file yet)."""
        if not storage.exists(self._path):
            return
        with storage.open_reader(self._path) as file:
            file.seek(self._offset)
            fresh = file.read()
        end = fresh.rfind(b"\n") + 1  # a line without its end is still being written
        self._offset += end
        for line in fresh[:end].splitlines():
            yield json.loads(line)


def _json_able(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
