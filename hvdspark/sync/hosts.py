"""Ranks by host: those of one host come together first, and the hosts' first ranks meet for them."""

from __future__ import annotations

import itertools
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
    """What all ranks do together, in storeys: inside each host, and between the first ranks of the hosts.

    Parameters
    ----------
    collective : Collective
        The ranks; all of them make this together.
    depth : int
        Storeys of a sum, at most. 2: hosts, and all their first ranks at once. More: a tree (docs/adr/0018), in which
        neighbouring hosts form groups, the groups' first ranks groups again, and so on to a single one.

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

    def __init__(self, collective: Collective, depth: int = 2) -> None:
        self._local = collective.local()
        self._leaders = collective.leaders()
        self.is_leader = self._leaders is not None
        mine = np.array([collective.rank], _LENGTH).view(np.uint8)
        first = int(gather_numbers(self._local, mine.view(_LENGTH))[0][0])
        self.leaders = [int(each.view(_LENGTH)[0]) for each in self.allgather(mine if self.is_leader else mine[:0])]
        self.place = self.leaders.index(first)
        fan_out = _fan_out(len(self.leaders), depth)
        above = [self._leaders] if fan_out >= len(self.leaders) else collective.levels(fan_out)
        self._is_at_top = above[-1] is not None
        self._above = [part for part in above if part is not None]

    @property
    def thread_sent_bytes(self) -> int:
        """Bytes that the calling thread of this rank has sent to other hosts."""
        parts = {id(part): part for part in (self._leaders, *self._above) if part is not None}
        return sum(part.thread_sent_bytes for part in parts.values())

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
        """Replace an array by its sum over all ranks, in place: sums go up by storeys, and the result comes down."""
        way = [self._local, *self._above]
        for part in way:
            part.allreduce_(array)
        for part in reversed(way[:-1] if self._is_at_top else way):
            part.broadcast_(array)

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


def _fan_out(num_hosts: int, depth: int) -> int:
    """Return how many hosts form a group, so that so many storeys, the hosts' own among them, are enough for all."""
    return next(width for width in itertools.count(2) if width ** (depth - 1) >= num_hosts)


def open_hosts(collective: Collective, topology: str, depth: int = 2) -> Hosts | None:
    """Decide by which way ranks meet; None: all at once.

    Parameters
    ----------
    collective : Collective
        The ranks; all of them call this.
    topology : {"auto", "flat", "hosts"}
        "auto": by host, where there are several hosts and one of them has several ranks, or a tree joins them.
    depth : int
        Storeys, from 2; above that, a tree of hosts.

    Raises
    ------
    UnsupportedError
        With "hosts" or a tree, if the transport cannot be split as it was started.
    """
    if topology == "flat" or collective.size == 1:
        return None
    if topology == "auto":
        sizes = [int(each[0]) for each in gather_numbers(collective, np.array([collective.local_size], _LENGTH))]
        has_tree = depth > 2 and collective.size > 2
        if max(sizes) == collective.size or (max(sizes) == 1 and not has_tree):
            return None
    try:
        return Hosts(collective, depth)
    except UnsupportedError as error:  # on all ranks
        if topology == "hosts" or depth > 2:
            raise
        logging.getLogger("hvdspark").warning("ranks of a host do not reduce among themselves first: %s", error)
        return None
