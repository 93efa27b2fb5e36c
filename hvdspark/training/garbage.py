"""Garbage collection at times of our choosing: a collection in the middle of a step makes all other ranks wait."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

__all__ = ["collecting_every"]


@contextmanager
def collecting_every(
    interval_ms: int | None, timed: Callable[[str], AbstractContextManager[Any]] = nullcontext
) -> Iterator[Callable[[], None]]:
    """Switch Python's automatic collection off inside the block.

    Parameters
    ----------
    interval_ms : int, optional
        Milliseconds between collections. None: leave collecting to Python.
    timed : callable
        Counts the time of a collection, as the phase "garbage".

    Yields
    ------
    callable
        To be called between steps; it collects when the time has come.
    """
    if interval_ms is None:
        yield lambda: None
        return
    was_enabled = gc.isenabled()
    last = time.monotonic()

    def between_steps() -> None:
        nonlocal last
        if time.monotonic() - last >= interval_ms / 1000:
            with timed("garbage"):
                gc.collect()
            last = time.monotonic()

    gc.disable()
    try:
        yield between_steps
    finally:
        if was_enabled:
            gc.enable()
