"""What one way of joining ranks brings; a `Collective` makes of it what keeps the laws."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from hvdspark.collectives.intent import Intent
from hvdspark.collectives.sent import SentBytes
from hvdspark.errors import ConfigurationError

if TYPE_CHECKING:
    from hvdspark.collectives.base import Collective

__all__ = ["Transport"]


class Transport(abc.ABC):
    """A rank's place among the others, and the bare operations, which `Collective` calls once all ranks agree.

    Parameters and attributes are those of `Collective`.
    """

    name: ClassVar[str]

    def __init__(
        self, *, rank: int, size: int, local_rank: int, local_size: int, host: str, timeout_s: float | None = None
    ) -> None:
        if timeout_s is not None and not timeout_s > 0:
            raise ConfigurationError(f"timeout_s must be a positive number of seconds or None, got {timeout_s!r}")
        self.rank: Final = rank
        self.size: Final = size
        self.local_rank: Final = local_rank
        self.local_size: Final = local_size
        self.host: Final = host
        self.timeout_s: Final = timeout_s
        self._sent = SentBytes()

    @abc.abstractmethod
    def _meet(self, intent: Intent, message: NDArray[np.uint8]) -> tuple[NDArray[np.int64], list[NDArray[np.uint8]]]:
        """Exchange intents, and messages where `carries_messages` says so.

        Returns
        -------
        [size, 4] int64
            The intents in rank order, the same on all ranks.
        list of uint8
            The messages as `allgather` returns them; anything where they are not exchanged.
        """

    @abc.abstractmethod
    def _alltoall(self, messages: Sequence[NDArray[np.uint8]], lengths: list[int]) -> list[NDArray[np.uint8]]:
        """Exchange messages of which all ranks know the lengths, and count what goes to other ranks.

        Parameters
        ----------
        messages : sequence of uint8
            One a rank.
        lengths : list of int
            Of what comes from each rank, at most `max_message_bytes`.

        Returns
        -------
        list of uint8
            As `alltoall` returns them.
        """

    @abc.abstractmethod
    def _allreduce(self, array: NDArray[Any]) -> None:
        """Sum an array that all ranks have agreed on, at least one element, at most `DENSE_CHUNK_BYTES`."""

    @abc.abstractmethod
    def _broadcast(self, array: NDArray[Any], root: int) -> None:
        """Overwrite an array that all ranks have agreed on, at least one element, at most `DENSE_CHUNK_BYTES`."""

    @abc.abstractmethod
    def _release(self) -> None:
        """Free what is held; all ranks have met."""

    @abc.abstractmethod
    def _abandon(self, cause: BaseException | None) -> None:
        """Make the other ranks fail, then free what is held; no rank may be waited for without a limit."""

    @abc.abstractmethod
    def _part(self, groups: list[list[int]], name: str, *, on_one_host: bool) -> Collective | None:
        """Make a collective of each group, on all ranks together; all ranks have met.

        Parameters
        ----------
        groups : list of list of int
            Ranks in rising order, no rank twice; the same on all ranks.
        name : str
            The same on all ranks, and no other call's on this collective.
        on_one_host : bool
            A group's ranks share a host; otherwise no two do.

        Returns
        -------
        Collective or None
            That of this rank's group, made with `_seat`; None if it is in none.
        """

    def _seat(self, group: list[int], *, on_one_host: bool) -> dict[str, Any]:
        """Return what `__init__` takes, for this rank's end of a part."""
        rank, size = group.index(self.rank), len(group)
        local_rank, local_size = (rank, size) if on_one_host else (0, 1)
        seat = {"rank": rank, "size": size, "local_rank": local_rank, "local_size": local_size}
        return {**seat, "host": self.host, "timeout_s": self.timeout_s}
