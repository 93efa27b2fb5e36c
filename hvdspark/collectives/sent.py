"""How many bytes a rank has handed to its transport, and on which thread."""

import threading

__all__ = ["SentBytes"]


class SentBytes:
    """Adds up bytes by thread: what is started on a thread of its own is told from what goes on beside it."""

    __slots__ = ("_by_thread",)

    def __init__(self) -> None:
        self._by_thread: dict[int, int] = {}

    def add(self, num_bytes: int) -> None:
        """Count bytes to the calling thread."""
        thread = threading.get_ident()  # one given anew after a thread has ended goes on from that one's count
        self._by_thread[thread] = self._by_thread.get(thread, 0) + num_bytes

    @property
    def here(self) -> int:
        """Bytes of the calling thread."""
        return self._by_thread.get(threading.get_ident(), 0)

    @property
    def total(self) -> int:
        """Bytes of all threads."""
        return sum(tuple(self._by_thread.values()))
