"""Ranks joined by Horovod: the way on Spark, under horovodrun, and with NCCL."""

import importlib.util
import os
import socket
import time
from collections.abc import Sequence
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from hvdspark.collectives.base import Collective
from hvdspark.collectives.blocks import Block, unpack
from hvdspark.collectives.environment import Launch
from hvdspark.collectives.halves import allreduce_halves
from hvdspark.collectives.intent import Intent
from hvdspark.collectives.mpi import import_mpi
from hvdspark.collectives.parcels import Parcels, unpack_parcels
from hvdspark.collectives.rendezvous import forget_addresses
from hvdspark.errors import CollectiveError, ConfigurationError, RankLost, RankMismatch, UnsupportedError

__all__ = ["HorovodCollective"]

_LAUNCH_VARIABLES: Final = (
    "HOROVOD_RANK",
    "HOROVOD_SIZE",
    "HOROVOD_GLOO_RENDEZVOUS_ADDR",
    "HOROVOD_GLOO_RENDEZVOUS_PORT",
    "OMPI_COMM_WORLD_RANK",
    "OMPI_COMM_WORLD_SIZE",
    "PMIX_NAMESPACE",
)
_FIRST_PAUSE_S: Final = 5e-5
_LONGEST_PAUSE_S: Final = 5e-4  # half of Horovod's own cycle
_RECIPE: Final = (
    "Horovod 0.28.1 does not build with a plain pip install against current torch: run launch/setup, or follow "
    "docs/install.md"
)


class HorovodCollective(Collective):
    """A collective over Horovod's global process set.

    An exchange is one allgather of a block (prefix, message, padding; see `hvdspark.collectives.blocks`), whatever the
    operation, so it always has the same name and ranks at different operations still meet. Sums and
    broadcasts are one flat tensor. ``hvd.join`` is never used: it forbids allgather.

    Horovod is started if it is not running. If it was running already, it is used as it is, unless the launcher's
    variables have changed since (a reused Spark worker): then it is started again. `close` stops a Horovod that was
    started here. Under MPI without mpi4py it is left running, since Horovod would end MPI for good; the interpreter's
    exit stops it. `abort` stops Horovod whoever started it: nothing else frees ranks that wait.

    Under Horovod's MPI transport `allreduce_` is ``MPI_Allreduce``: all ranks get the same bits from every algorithm of
    Open MPI and MPICH except for which of several NaNs survives.

    Parameters
    ----------
    timeout_s : float, optional
        Seconds that each of Horovod's operations may take, waiting included.

    Raises
    ------
    ConfigurationError
        Horovod is missing, no launcher started this process, or Horovod sees fewer ranks than the launcher started.
    CollectiveError
        Horovod did not start.
    """

    name: ClassVar[str] = "horovod"

    def __init__(self, *, timeout_s: float | None = None) -> None:
        self._hvd = _import_horovod()
        _runtime.enter(self._hvd)
        seat = {"rank": self._hvd.rank(), "size": self._hvd.size()}
        seat |= {"local_rank": self._hvd.local_rank(), "local_size": self._hvd.local_size()}
        # Collectives that are open at the same time have names of their own, so that each keeps its cache.
        self._take(
            self._hvd.global_process_set,
            list(range(self._hvd.size())),
            f"hvdspark.{_runtime.num_open}",
            {**seat, "host": socket.gethostname(), "timeout_s": timeout_s},
        )

    def _take(self, process_set: Any, ranks: list[int], tag: str, seat: dict[str, Any]) -> None:
        """Become one end among some of Horovod's ranks."""
        super().__init__(**seat)
        self._set = process_set
        self._ranks = ranks
        self._tag = tag
        self._generation = _runtime.generation
        self._block = Block(self.max_message_bytes)
        self._parcels = Parcels()

    def _meet(self, intent: Intent, message: NDArray[np.uint8]) -> tuple[NDArray[np.int64], list[NDArray[np.uint8]]]:
        block = self._block.pack(intent, message)
        received = self._finished(self._hvd.allgather_async, block, str(intent), name=f"{self._tag}.exchange")
        self._sent.add(block.size)
        return unpack(received, self.size)

    def _alltoall(self, messages: Sequence[NDArray[np.uint8]], lengths: list[int]) -> list[NDArray[np.uint8]]:
        import torch

        given = self._parcels.pack(messages)
        # The shape is that of the whole buffer, which rarely changes, as the response cache wants it; the room behind
        # the messages is not sent.
        received = self._finished(
            self._hvd.alltoall_async,
            self._parcels.buffer,
            "alltoall",
            splits=torch.tensor(given, dtype=torch.int32),
            name=f"{self._tag}.alltoall",
        )
        self._sent.add(sum(given) - given[self.rank])
        return unpack_parcels(received, lengths)

    def _allreduce(self, array: NDArray[Any]) -> None:
        if array.dtype == np.float16:
            allreduce_halves(array, self.size, self._swap, self._gather_rows)
            return
        # Length and dtype are in the name: each keeps its place in the response cache.
        name = f"{self._tag}.allreduce.{array.dtype.name}.{array.size}"
        self._finished(self._hvd.allreduce_async_, array, "allreduce_", name=name, op=self._hvd.Sum)

    def _swap(self, rows: NDArray[np.uint16]) -> NDArray[np.uint16]:
        name = f"{self._tag}.swap.{rows.shape[1]}"  # Horovod knows no uint16
        return self._finished(self._hvd.alltoall_async, rows.view(np.int16), "allreduce_", name=name).view(np.uint16)

    def _gather_rows(self, row: NDArray[np.uint16]) -> NDArray[np.uint16]:
        name = f"{self._tag}.shares.{row.size}"
        received = self._finished(self._hvd.allgather_async, row.view(np.int16), "allreduce_", name=name)
        return received.view(np.uint16).reshape(self.size, row.size)

    def _broadcast(self, array: NDArray[Any], root: int) -> None:
        name = f"{self._tag}.broadcast.{array.dtype.name}.{array.size}.{root}"
        self._finished(self._hvd.broadcast_async_, array, "broadcast_", name=name, root_rank=self._ranks[root])

    def _part(self, groups: list[list[int]], name: str, *, on_one_host: bool) -> "HorovodCollective | None":
        part = None
        for group in groups:  # Horovod wants every set from all ranks
            process_set = _runtime.process_set(self._hvd, group)
            if self.rank in group:
                part = HorovodCollective.__new__(HorovodCollective)
                part._hvd = self._hvd
                part._take(
                    process_set, group, f"{self._tag}.{name}.{group[0]}", self._seat(group, on_one_host=on_one_host)
                )
        return part

    def _release(self) -> None:
        if self._generation == _runtime.generation and not self._is_part:
            _runtime.leave(self._hvd)

    def _abandon(self, cause: BaseException | None) -> None:  # noqa: ARG002 - Horovod cannot tell the others
        if self._generation == _runtime.generation:
            _runtime.stop(self._hvd)

    def _finished(self, start: Any, array: NDArray[Any], operation: str, **options: Any) -> NDArray[Any]:
        import torch
        from horovod.common.exceptions import HorovodInternalError

        try:
            handle = start(torch.from_numpy(array), process_set=self._set, **options)
            # Horovod's own wait spins a core, which its background thread and the neighbours could use.
            self._poll(handle, operation)
            output = self._hvd.synchronize(handle)
        except HorovodInternalError as error:
            raise self._told(error, operation) from error
        tensor = (
            output[0] if isinstance(output, tuple) else output
        )  # an alltoall also tells how many rows came from each
        result: NDArray[Any] = tensor.numpy()
        return result

    def _poll(self, handle: int, operation: str) -> None:
        deadline = None if self.timeout_s is None else time.monotonic() + self.timeout_s
        pause_s = _FIRST_PAUSE_S
        while not self._hvd.poll(handle):
            if deadline is not None and time.monotonic() > deadline:
                raise RankLost(
                    f"{self._place(operation)}: not all ranks came within {self.timeout_s} s; the cause is in the log "
                    "of a rank that did not come"
                )
            time.sleep(pause_s)
            pause_s = min(1.1 * pause_s, _LONGEST_PAUSE_S)

    def _told(self, error: Exception, operation: str) -> CollectiveError:
        text = " ".join(str(error).split())
        if "Mismatched" in text:  # Horovod's own check; it stays usable after it
            return RankMismatch(f"{self._place(operation)}: {text}")
        return RankLost(
            f"{self._place(operation)}: another rank failed or ended; the cause is in that rank's log. "
            f"Horovod says: {text}"
        )

    def _place(self, operation: str) -> str:
        return f"rank {self.rank} of {self.size} on {self.host} in {operation}"


class _Runtime:
    """Horovod in this process. There is one, whoever started it, so its users are counted in one place."""

    def __init__(self) -> None:
        self.num_open = 0
        self.generation = 0  # grows when Horovod stops: collectives of an earlier one must not touch a later one
        self._started_for: tuple[str | None, ...] | None = None
        self._ends_mpi = False
        self._has_ended_mpi = False
        self._sets: dict[tuple[int, ...], Any] = {}

    def process_set(self, hvd: Any, ranks: list[int]) -> Any:
        """Return Horovod's set of some ranks; it takes each only once, and keeps it until it stops."""
        if len(ranks) == hvd.size():
            return hvd.global_process_set
        if tuple(ranks) not in self._sets:
            try:
                self._sets[tuple(ranks)] = hvd.add_process_set(ranks)
            except (ValueError, RuntimeError) as error:
                raise UnsupportedError(
                    f"Horovod made no set of ranks {ranks}, as local() and leaders() need ({error}): set "
                    "HOROVOD_DYNAMIC_PROCESS_SETS=1 on all ranks before Horovod starts"
                ) from error
        return self._sets[tuple(ranks)]

    def enter(self, hvd: Any) -> None:
        """Start Horovod if need be, and count one more user."""
        launch = Launch.detect()
        variables = tuple(os.environ.get(name) for name in _LAUNCH_VARIABLES)
        if hvd.is_initialized() and self._is_stale(hvd, variables):
            self.stop(hvd)
        if not hvd.is_initialized():
            if "HOROVOD_CONTROLLER" not in os.environ:  # Horovod takes MPI then, if it was built with it
                launch.refuse_alone("horovod", "Horovod", "torch")
                launch.require_launcher("Horovod")
            self._start(hvd, launch)
            self._started_for = variables
        try:
            launch.require_size(hvd.size(), "Horovod")
        except ConfigurationError:
            self.stop(hvd)
            raise
        self.num_open += 1

    def leave(self, hvd: Any) -> None:
        """Count one user less; the last one stops what was started here."""
        self.num_open -= 1
        if self.num_open == 0 and self._started_for is not None and not self._ends_mpi:
            self.stop(hvd)

    def stop(self, hvd: Any) -> None:
        """Stop Horovod, on all ranks."""
        self._has_ended_mpi = self._ends_mpi
        self.num_open = 0
        self.generation += 1
        self._started_for = None
        self._sets = {}
        hvd.shutdown()

    def _is_stale(self, hvd: Any, variables: tuple[str | None, ...]) -> bool:
        if self._started_for is not None:
            return self._started_for != variables
        rank, size = variables[:2]
        return rank is not None and size is not None and (rank, size) != (str(hvd.rank()), str(hvd.size()))

    def _start(self, hvd: Any, launch: Launch) -> None:
        if self._has_ended_mpi:
            raise CollectiveError(
                "Horovod was stopped in this process and ended MPI with it, so it cannot start again: start a new "
                "process, or install mpi4py, which keeps MPI alive"
            )
        takes_mpi = launch.kind != "gloo" and os.environ.get("HOROVOD_CONTROLLER") != "gloo"
        has_mpi4py = takes_mpi and _import_mpi_if_present()
        os.environ.setdefault("HOROVOD_DYNAMIC_PROCESS_SETS", "1")  # for local() and leaders(); see docs/adr/0010
        try:
            hvd.init()
        except ValueError as error:
            raise CollectiveError(
                f"Horovod did not start: {error} Its own lines on standard error tell why; if hosts or slow ranks "
                "were not reached, see HOROVOD_GLOO_IFACE and HOROVOD_GLOO_TIMEOUT_SECONDS"
            ) from error
        self._ends_mpi = bool(hvd.mpi_enabled()) and not has_mpi4py
        forget_addresses(hvd)


_runtime = _Runtime()


def _import_mpi_if_present() -> bool:
    """Let mpi4py own MPI: otherwise Horovod's shutdown ends MPI, and a second start aborts the process."""
    if importlib.util.find_spec("mpi4py") is None:
        return False
    import_mpi()
    return True


def _import_horovod() -> Any:
    try:
        import horovod.torch as hvd
    except ImportError as error:
        raise ConfigurationError(f"Horovod for PyTorch does not import ({error}). {_RECIPE}") from error
    return hvd
