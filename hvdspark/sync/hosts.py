"""Ranks by host: those of one host come together first, and the hosts' first ranks meet for them."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark.collectives import Collective
from hvdspark.errors import UnsupportedError
from hvdspark.sync.handshake import gather_numbers

__all__ = ["TOPOLOGIES", "Hosts", "open_hosts"]

TOPOLOGIES = ("auto", "flat", "hosts")
_LENGTH = np.dtype("<i8")


class Hosts:
    """What all ranks do together, in two storeys: inside each host, and between the first ranks of the hosts.

    Parameters
    ----------
    collective : Collective
        The ranks; all of them make this together.

    Attributes
    ----------
    is_leader : bool
        Whether this rank is the first of its host.
    place : int
        Which host this is, counted in the order of their first ranks.
    leaders : list of int
        The first rank of each host.

    Raises
    ------
    UnsupportedError
        If the transport cannot be split as it was started; on all ranks.
    """

    def __init__(self, collective: Collective) -> None:
        self._local = collective.local()
        self._leaders = collective.leaders()
        self.is_leader = self._leaders is not None
        mine = np.array([collective.rank], _LENGTH).view(np.uint8)
        first = int(gather_numbers(self._local, mine.view(_LENGTH))[0][0])
        self.leaders = [int(each.view(_LENGTH)[0]) for each in self.allgather(mine if self.is_leader else mine[:0])]
        self.place = self.leaders.index(first)

    @property
    def thread_sent_bytes(self) -> int:
        """Bytes that the calling thread of this rank has sent to other hosts."""
        return 0 if self._leaders is None else self._leaders.thread_sent_bytes

    @property
    def thread_local_bytes(self) -> int:
        """Bytes that the calling thread of this rank has handed to ranks of its own host."""
        return self._local.thread_sent_bytes

    @property
    def max_message_bytes(self) -> int:
        """Length of the longest message that `allgather` takes: all of them go to each rank of a host at once."""
        return self._local.max_message_bytes // len(self.leaders) - _LENGTH.itemsize

    def sum_inside(self, array: NDArray[Any]) -> None:
        """Replace an array by its sum over the ranks of this host, in place; on all of them."""
        self._local.allreduce_(array)

    def allreduce_(self, array: NDArray[Any]) -> None:
        """Replace an array by its sum over all ranks, in place."""
        self._local.allreduce_(array)
        if self._leaders is not None:
            self._leaders.allreduce_(array)
        self._local.broadcast_(array)

    def allgather(self, message: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """Give every rank the message of every host.

        Parameters
        ----------
        message : ndarray
            `[m] uint8`: this host's, from its leader; empty from the others.

        Returns
        -------
        list of [m_h] uint8
            In the order of `leaders`; valid until the next call.
        """
        packed = message[:0]
        if self._leaders is not None:
            messages = self._leaders.allgather(message)
            lengths = np.array([len(messages), *(each.size for each in messages)], _LENGTH)
            packed = np.concatenate([lengths.view(np.uint8), *map(_padded, messages)])
        return _unpacked(self._local.allgather(packed)[0])


def _padded(message: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Fill up to a multiple of eight bytes: kernels read words where messages begin."""
    return np.pad(message, (0, -message.size % 8))


def _unpacked(packed: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    numbers = packed[: packed.size // 8 * 8].view(_LENGTH)
    count = int(numbers[0])
    found, start = [], 8 * (1 + count)
    for length in numbers[1 : 1 + count].tolist():
        found.append(packed[start : start + length])
        start += length + -length % 8
    return found


def open_hosts(collective: Collective, topology: str) -> Hosts | None:
    """Decide by which way ranks meet; None: all at once.

    Parameters
    ----------
    collective : Collective
        The ranks; all of them call this.
    topology : {"auto", "flat", "hosts"}
        "auto": by host, where there are several hosts and one of them has several ranks.

    Raises
    ------
    UnsupportedError
        With "hosts", if the transport cannot be split as it was started.
    """
    if topology == "flat" or collective.size == 1:
        return None
    if topology == "auto":
        sizes = [int(each[0]) for each in gather_numbers(collective, np.array([collective.local_size], _LENGTH))]
        if max(sizes) == 1 or max(sizes) == collective.size:
            return None
    try:
        return Hosts(collective)
    except UnsupportedError as error:  # on all ranks
        if topology == "hosts":
            raise
        logging.getLogger("hvdspark").warning("ranks of a host do not reduce among themselves first: %s", error)
        return None
