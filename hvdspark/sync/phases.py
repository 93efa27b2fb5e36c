"""A stopwatch for the phases of a step."""

import functools
import time
from collections.abc import Callable
from contextlib import AbstractContextManager

__all__ = ["Phases", "Record"]

#: Is told of each phase: its name, its begin and its end on `time.perf_counter`, on the thread that it ran on.
Record = Callable[[str, float, float], None]


class Phases:
    """Adds up seconds by the name of a phase, in the order in which the names were first seen.

    Attributes
    ----------
    seconds : dict
        Seconds by phase, so far.
    timed : callable
        ``with phases.timed(name):`` counts the time of its block to a phase.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.timed: Callable[[str], AbstractContextManager[None]] = functools.partial(_Timed, self.seconds)

    def watch(self, record: Record) -> None:
        """Tell somebody of each phase too; where nobody watches, nothing is spent on the question."""
        self.timed = functools.partial(_Watched, self.seconds, record)


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


class _Watched:
    """A block whose time is counted and told."""

    __slots__ = ("_begin", "_name", "_record", "_seconds")

    def __init__(self, seconds: dict[str, float], record: Record, name: str) -> None:
        self._seconds = seconds
        self._record = record
        self._name = name

    def __enter__(self) -> None:
        self._begin = time.perf_counter()

    def __exit__(self, *_error: object) -> None:
        end = time.perf_counter()
        self._seconds[self._name] = self._seconds.get(self._name, 0.0) + end - self._begin
        self._record(self._name, self._begin, end)
