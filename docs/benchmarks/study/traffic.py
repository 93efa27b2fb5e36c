"""Bytes of a rank, from the real lengths of its messages: what it sent, and what its link carried."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvdspark.collectives import Collective
from hvdspark.collectives.intent import INTENT_BYTES

__all__ = ["Bytes", "Traffic", "ring_bytes"]


class Bytes(NamedTuple):
    """Bytes of one rank.

    Parameters
    ----------
    sent : float
        Of its own messages and arrays, each once, however many ranks they go to: as `SyncReport.bytes_sent`.
    wire : float
        What its link carries one way: what comes to it of the messages of the others; an allreduce as a ring does it.
    """

    sent: float
    wire: float


def ring_bytes(array_bytes: float, size: int) -> float:
    """Return what a ring allreduce of an array brings to each of `size` ranks."""
    return 2 * (size - 1) / size * array_bytes


class Traffic:
    """Counts what a rank exchanges from now on, announcements of operations included.

    Parameters
    ----------
    world : Collective
        The rank's end; its operations are replaced by ones that count.
    """

    def __init__(self, world: Collective) -> None:
        self._world = world
        self._sent_before = world.sent_bytes
        self._wire = 0.0
        counts: dict[str, Callable[[Any, Any], float]] = {
            "allgather": lambda _given, found: self._from_others(found),
            "alltoall": lambda _given, found: self._from_others(found) + (world.size - 1) * 4 * world.size,
            "allreduce_": lambda array, _: ring_bytes(array.nbytes, world.size),
            "broadcast_": lambda array, _: array.nbytes,  # as much as it sends on, on the average
            "barrier": lambda *_: 0,
        }
        for name, count in counts.items():
            setattr(world, name, self._counted(getattr(world, name), count))

    def _counted(self, operation: Callable[..., Any], count: Callable[[Any, Any], float]) -> Callable[..., Any]:
        def counted(*given: Any, **options: Any) -> Any:
            found = operation(*given, **options)
            self._wire += (self._world.size - 1) * INTENT_BYTES + count(given[0] if given else None, found)
            return found

        return counted

    def _from_others(self, messages: Sequence[NDArray[np.uint8]]) -> int:
        return sum(message.size for rank, message in enumerate(messages) if rank != self._world.rank)

    def bytes(self) -> Bytes:
        """Return what was exchanged so far."""
        return Bytes(self._world.sent_bytes - self._sent_before, self._wire)
