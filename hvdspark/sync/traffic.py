"""What a synchroniser has exchanged, apart from what others sent over the same collective."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from hvdspark.collectives import Collective
from hvdspark.sync.hosts import Hosts

__all__ = ["Traffic"]


class Traffic:
    """Counts exchanges, by whoever makes them, and their bytes.

    Parameters
    ----------
    collective : Collective
        The ranks.
    hosts : Hosts, optional
        The same by host.

    Attributes
    ----------
    exchanges : int
        How often the ranks have come to agree.
    sent, local : int
        Bytes to anyone, and bytes to ranks of the same host that came together first.
    """

    def __init__(self, collective: Collective, hosts: Hosts | None) -> None:
        self._collective = collective
        self._hosts = hosts
        self.exchanges = self.sent = self.local = 0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count what this thread sends inside the block; one block at a time.

        By thread: an exchange that another synchroniser has started may be under way when the block begins, and counts
        its own.
        """
        sent, local = self._read()
        try:
            yield
        finally:
            now = self._read()
            self.sent += now[0] - sent
            self.local += now[1] - local

    def _read(self) -> tuple[int, int]:
        if self._hosts is None:
            return self._collective.thread_sent_bytes, 0
        return self._collective.thread_sent_bytes + self._hosts.thread_sent_bytes, self._hosts.thread_local_bytes
