"""Exchanges in two stages: every rank sends the owner of each region its part of it; the owner sends all their sum.

What goes over the network to and from a rank is bounded however many ranks there are; where every rank's message goes
to every rank, it grows with them. Ok-Topk (Li and Hoefler, PPoPP 2022) sums sparse gradients so. What travels is up to
the exchanges that are built on it: codes (coded_regions.py), or float16 (fp16.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hvdspark.collectives import Collective
from hvdspark.errors import UnsupportedError
from hvdspark.sync.failures import deliver, failure_message
from hvdspark.sync.phases import Phases

__all__ = ["Regions"]

Bytes = NDArray[np.uint8]


class Regions:
    """Elements of a flat vector cut into as many regions as there are ranks; rank r owns the r-th.

    Parameters
    ----------
    collective : Collective
        The ranks.
    n : int
        Number of elements.
    phases : Phases
        Where the time is counted.

    Attributes
    ----------
    spans : list of slice
        Which elements each rank owns.
    own : slice
        Those of this rank.

    Raises
    ------
    UnsupportedError
        There are fewer elements than ranks.
    """

    def __init__(self, collective: Collective, n: int, phases: Phases) -> None:
        size = collective.size
        if n < size:
            raise UnsupportedError(
                f"{size} ranks cannot each own a region of {n} elements: use exchange='codec' for so small a model"
            )
        ends = [n * (rank + 1) // size for rank in range(size)]
        self.spans: Final = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        self.own: Final = self.spans[collective.rank]
        self.rank: Final = collective.rank
        self.ranks: Final = list(range(size))
        self._collective = collective
        self._phases = phases

    def swap(self, make: Callable[[], Sequence[Bytes]], step: int) -> list[Bytes]:
        """Send each owner its message, and return what all ranks have sent this one, in rank order.

        Parameters
        ----------
        make : callable
            Makes this rank's messages, one for each owner; if it raises, all ranks hear of it.
        step : int
            For errors.

        Raises
        ------
        RankLost
            Another rank could make none; on all ranks but that one, which raises what `make` did.
        """
        messages, failure = _attempt(make, self._collective.max_message_bytes)
        if failure is not None:
            messages = [failure_message(failure)] * len(self.spans)
        return self._deliver(lambda: self._collective.alltoall(messages), failure, step)

    def gather(self, make: Callable[[], Bytes], step: int) -> list[Bytes]:
        """Send all ranks this owner's message, and return those of all owners, in rank order. Else as `swap`."""
        messages, failure = _attempt(lambda: [make()], self._collective.max_message_bytes)
        message = messages[0] if failure is None else failure_message(failure)
        return self._deliver(lambda: self._collective.allgather(message), failure, step)

    def _deliver(self, send: Callable[[], list[Bytes]], failure: Exception | None, step: int) -> list[Bytes]:
        with self._phases.timed("exchange"):
            return deliver(send, failure, self.ranks, step)


def _attempt(make: Callable[[], Sequence[Bytes]], limit: int) -> tuple[Sequence[Bytes], Exception | None]:
    """Return the messages, or why there are none, which the others must hear of."""
    try:
        messages = make()
        longest = max(message.size for message in messages)
        if longest > limit:
            raise UnsupportedError(f"a message of this step has {longest} bytes, {limit} can be sent at a time")
    except Exception as error:  # noqa: BLE001  raised again as soon as the others know
        return (), error
    return messages, None
