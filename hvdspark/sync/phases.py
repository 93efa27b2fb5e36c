"""A stopwatch for the phases of a step."""

import time

__all__ = ["Phases"]


class Phases:
    """Adds up seconds by the name of a phase, in the order in which the names were first seen."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def timed(self, name: str) -> "_Timed":
        """Count the time of the enclosed block to a phase."""
        return _Timed(self.seconds, name)


class _Timed:
    """A block whose time is counted. A generator would take four times as long, several times a step."""

    __slots__ = ("_begin", "_name", "_seconds")

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self._seconds = seconds
        self._name = name

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, *_error: object) -> None:
        self._seconds[self._name] = self._seconds.get(self._name, 0.0) + time.perf_counter() - self._begin
