"""A group of Gloo's as the collective "torch" uses it. What is called here belongs to ``torch.distributed``."""

import contextlib
import datetime as dt
import re
import socket
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hvdspark.errors import RankLost

__all__ = ["START_S", "GlooLink"]

START_S: Final = 300.0  # processes import torch at different speeds: far above the limit of an operation
_HOST_BYTES: Final = 256
_SLICE: Final = dt.timedelta(seconds=0.5)  # between two of them Python sees signals, Ctrl-C among them
_SOURCE_LINE: Final = re.compile(r"^\[[^\]]*\]\s*")


class GlooLink:
    """A Gloo group whose operations are waited for, whose failures are named, and which ends before the process does.

    Parameters
    ----------
    dist : module
        ``torch.distributed``.
    group : ProcessGroupGloo or ProcessGroup
        Connected to all its ranks.
    store : Store, optional
        Where the group's ranks met. None: ``torch.distributed`` knows the group, makes its parts, and is told of its
        end.
    """

    def __init__(self, dist: Any, group: Any, store: Any = None) -> None:
        self._dist: Final = dist
        self._store = store
        self._group = group
        self.rank: Final[int] = group.rank()
        self.size: Final[int] = group.size()
        self.set_limit(START_S)
        # At the interpreter's exit too, or else Gloo's threads would end the process with SIGABRT.
        self._end = weakref.finalize(self, _break_off, dist, group, is_registered=store is None)

    def set_limit(self, limit_s: float) -> None:
        """Set how many seconds a step of an operation waits for another rank."""
        self._limit_s = limit_s

    def ranks_with(self, host: str) -> list[int]:
        """Return the ranks that give the same host's name; all ranks call this."""
        name = np.frombuffer(host.encode()[:_HOST_BYTES].ljust(_HOST_BYTES, b"\0"), np.uint8).copy()
        names = np.empty((self.size, _HOST_BYTES), np.uint8)
        self.gather(name, names, "opening a collective")
        return [rank for rank in range(self.size) if np.array_equal(names[rank], name)]

    def gather(self, block: NDArray[np.uint8], blocks: NDArray[np.uint8], operation: str) -> None:
        """Fill ``[size, b] uint8`` with the ranks' blocks of ``[b] uint8``."""
        import torch

        rows = list(torch.from_numpy(blocks).unbind())
        with self._named(operation):
            _finish([self._group.allgather([rows], [torch.from_numpy(block)], self._limited("AllgatherOptions"))])

    def allreduce(self, array: NDArray[Any]) -> None:
        """Sum in place. In Gloo's ring one rank sums an element, and its sum goes round: the same bits everywhere."""
        import torch

        with self._named("allreduce_"):
            _finish([self._group.allreduce([torch.from_numpy(array)], self._limited("AllreduceOptions"))])

    def exchange(
        self, given: NDArray[np.uint8], lengths: list[int], taken: NDArray[np.uint8], coming: list[int], operation: str
    ) -> None:
        """Send each rank its part of ``given``, `lengths` long; fill ``taken`` with theirs, `coming` long."""
        import torch

        options = self._limited("AllToAllOptions")
        with self._named(operation):
            tensors = torch.from_numpy(taken), torch.from_numpy(given)
            _finish([self._group.alltoall_base(*tensors, coming, lengths, options)])

    def swap(self, rows: NDArray[np.uint16]) -> NDArray[np.uint16]:
        """Give row r to rank r; return the rows that the ranks gave."""
        received = np.empty_like(rows)
        self.exchange(rows.view(np.uint8), [], received.view(np.uint8), [], "allreduce_")
        return received

    def broadcast(self, arrays: Mapping[int, NDArray[Any]], operation: str) -> None:
        """Overwrite each array by the one of the rank that is its key, all at once."""
        import torch

        works = []
        with self._named(operation):
            for root, array in arrays.items():
                options = self._limited("BroadcastOptions")
                options.rootRank = root
                works.append(self._group.broadcast([torch.from_numpy(array)], options))
            _finish(works)

    def part(self, groups: list[list[int]], *, name: str) -> "GlooLink | None":
        """Make a link among the ranks of each group, on all ranks together; return this rank's."""
        mine = next((group for group in groups if self.rank in group), None)
        limit = dt.timedelta(seconds=START_S)
        with self._named("split"):
            if self._store is None:  # new_group wants all ranks to call it for every group
                made = [self._dist.new_group(group, backend="gloo", timeout=limit) for group in groups]
                return None if mine is None else GlooLink(self._dist, made[groups.index(mine)])
            if mine is None:
                return None
            store = self._dist.PrefixStore(f"{name}/{mine[0]}", self._store)
            group = self._dist.ProcessGroupGloo(store, mine.index(self.rank), len(mine), limit)
            return GlooLink(self._dist, group, store)

    def close(self) -> None:
        """Close the connections; all ranks have met and none is at an operation."""
        self._group = None
        if ending := self._end.detach():
            _, _, (dist, group), options = ending
            _forget(dist, group, **options)

    def break_off(self) -> None:
        """Close the connections, upon which operations fail, here and on the other ranks. Does nothing once closed."""
        self._group = None
        self._end()

    def _limited(self, kind: str) -> Any:
        options = getattr(self._dist.distributed_c10d, kind)()
        options.timeout = dt.timedelta(seconds=self._limit_s)
        return options

    @contextlib.contextmanager
    def _named(self, operation: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:
            place = f"rank {self.rank} of {self.size} on {socket.gethostname()} in {operation}"
            text = _SOURCE_LINE.sub("", str(error)).partition(". This is typically")[0]
            if "timed out" in text.lower():
                raise RankLost(
                    f"{place}: not all ranks came within {self._limit_s} s; the cause is in the log of a rank that did "
                    "not come, or the network was cut"
                ) from error
            raise RankLost(
                f"{place}: another rank failed or ended; the cause is in that rank's log. Gloo says: {text}"
            ) from error


def _finish(works: Sequence[Any]) -> None:
    """Wait for what was started; raise what Gloo did."""
    for work in works:
        while not work.is_completed():
            with contextlib.suppress(RuntimeError):  # the slice is over, or the work failed: that is raised below
                work.wait(_SLICE)
        work.wait()


def _break_off(dist: Any, group: Any, *, is_registered: bool) -> None:
    import torch

    # Gloo's abort leaves an operation that waits as it is, and the group's end would wait for it. A limit that runs
    # out, as that of a message which nobody sends, ends all connections of the group.
    if group.size() > 1:
        with contextlib.suppress(RuntimeError):  # what was wanted
            group.recv([torch.zeros(1)], (group.rank() + 1) % group.size(), 0).wait(dt.timedelta(milliseconds=1))
    _forget(dist, group, is_registered=is_registered)


def _forget(dist: Any, group: Any, *, is_registered: bool) -> None:
    if is_registered:
        with contextlib.suppress(ValueError):  # the user has destroyed all groups already
            dist.destroy_process_group(group)
