"""Ranks joined by PyTorch's own Gloo: needs nothing besides torch; the way under torchrun.

What travels is NumPy arrays in a host's memory, so the group is always Gloo's, also where the model is on a GPU and the
user's own group is NCCL's (docs/adr/0013).
"""

import contextlib
import datetime as dt
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from hvdspark.collectives.arrays import require_lengths
from hvdspark.collectives.base import Collective
from hvdspark.collectives.environment import TORCH_VARIABLES, Launch
from hvdspark.collectives.gloo import START_S, GlooLink
from hvdspark.collectives.halves import allreduce_halves
from hvdspark.collectives.intent import INTENT_BYTES, INTENT_FIELDS, Intent, carries_messages
from hvdspark.collectives.parcels import Parcels, padded, unpack_parcels
from hvdspark.errors import CollectiveError, ConfigurationError

__all__ = ["TorchCollective", "is_running"]

# What every meeting carries a rank: the intent, and a message that fits beside it. Gloo gathers equal lengths only, so
# a longer message costs another round; 4 KiB cost 33 us at 1 Gbit/s, a round costs several times that.
_BLOCK_BYTES: Final = 4096
_HEAD_BYTES: Final = _BLOCK_BYTES - INTENT_BYTES
_ALIGNMENT_BYTES: Final = 64
_LONGEST_S: Final = 1800.0  # Gloo's own limit
# Which attempt of torchrun's this is: its agent's store outlives one.
_ATTEMPT_VARIABLES: Final = ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT")


def is_running() -> bool:
    """Tell whether the user has initialised torch.distributed in this process; imports nothing."""
    module = sys.modules.get("torch.distributed")
    return module is not None and bool(module.is_available()) and bool(module.is_initialized())


class TorchCollective(Collective):
    """A collective over a Gloo group of its own, apart from every group of the user's.

    Where the user has initialised ``torch.distributed``, the group is a ``new_group`` of all its ranks. Else it is
    built from the launcher's variables RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT, beside ``torch.distributed``,
    which the user may still initialise. Ranks whose hosts have one name count as ranks of one host.

    An exchange is one allgather of a block of 4 KiB a rank: the intent, and a message of up to 4,064 bytes. Each longer
    message follows as a broadcast of its own length, all of them in flight at once: under Gloo this is quicker than an
    allgather padded to the longest message, and sends no padding (docs/adr/0009).

    `abort`, or the end of the process, closes the connections, and the other ranks raise `RankLost` at once.

    Parameters
    ----------
    timeout_s : float, optional
        Seconds to wait for the other ranks, in each step of Gloo's algorithms: a transfer may take longer while it
        moves on. None: 1,800, Gloo's own limit. Opening may always take 300, since processes start at different speeds.

    Raises
    ------
    ConfigurationError
        This torch has no Gloo, no variables tell where the other ranks are, or the user's group has another size than
        the launcher's.
    CollectiveError
        The other ranks were not reached.
    """

    name: ClassVar[str] = "torch"

    def __init__(self, *, timeout_s: float | None = None) -> None:
        link = _link_of_user() if is_running() else _link_of_launcher()
        try:
            host = socket.gethostname()
            here = link.ranks_with(host)
            seat = {"rank": link.rank, "size": link.size}
            seat |= {"local_rank": here.index(link.rank), "local_size": len(here)}
            self._take(link, {**seat, "host": host, "timeout_s": timeout_s})
        except BaseException:
            link.break_off()
            raise

    def _take(self, link: GlooLink, seat: dict[str, Any]) -> None:
        """Become one end of a link, which is ours from now on."""
        super().__init__(**seat)
        link.set_limit(_LONGEST_S if self.timeout_s is None else self.timeout_s)
        self._link = link
        self._block = np.zeros(_BLOCK_BYTES, np.uint8)
        self._blocks = np.zeros((self.size, _BLOCK_BYTES), np.uint8)
        self._received = np.empty(0, np.uint8)
        self._parcels = Parcels()

    def _meet(self, intent: Intent, message: NDArray[np.uint8]) -> tuple[NDArray[np.int64], list[NDArray[np.uint8]]]:
        self._block[:INTENT_BYTES].view(np.int64)[:] = intent
        if message.size <= _HEAD_BYTES:
            self._block[INTENT_BYTES : INTENT_BYTES + message.size] = message
        self._link.gather(self._block, self._blocks, str(intent))
        self._sent.add(_BLOCK_BYTES)
        rows = self._blocks[:, :INTENT_BYTES].view(np.int64)
        if not carries_messages(rows):
            return rows, []
        return rows, self._messages(rows[:, INTENT_FIELDS - 1].tolist(), message)

    def _messages(self, lengths: list[int], message: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """Take short messages out of the blocks, and have the long ones sent."""
        places = self._places(lengths)
        views = [
            self._received[start : start + length]
            if length > _HEAD_BYTES
            else block[INTENT_BYTES : INTENT_BYTES + length]
            for start, length, block in zip(places, lengths, self._blocks, strict=True)
        ]
        if message.size > _HEAD_BYTES:
            views[self.rank][:] = message
            self._sent.add(message.size)
        long = {rank: views[rank] for rank, length in enumerate(lengths) if length > _HEAD_BYTES}
        self._link.broadcast(long, "allgather")
        for view in views:
            view.flags.writeable = False
        return views

    def _places(self, lengths: list[int]) -> list[int]:
        """Find room for the long messages; return where each begins."""
        require_lengths(lengths, self.max_message_bytes)
        places, end = [], 0
        for length in lengths:
            places.append(end)
            if length > _HEAD_BYTES:
                end += -(-length // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
        self._make_room(end)
        return places

    def _make_room(self, num_bytes: int) -> None:
        if self._received.size < num_bytes:
            self._received = np.empty(num_bytes + num_bytes // 4, np.uint8)

    def _alltoall(self, messages: Sequence[NDArray[np.uint8]], lengths: list[int]) -> list[NDArray[np.uint8]]:
        given, taken = self._parcels.pack(messages), [padded(length) for length in lengths]
        self._make_room(sum(taken))
        received = self._received[: sum(taken)]
        self._link.exchange(self._parcels.buffer[: sum(given)], given, received, taken, "alltoall")
        self._sent.add(sum(given) - given[self.rank])
        return unpack_parcels(received, lengths)

    def _allreduce(self, array: NDArray[Any]) -> None:
        if array.dtype == np.float16:
            allreduce_halves(array, self.size, self._link.swap, self._gather_rows)
        else:
            self._link.allreduce(array)

    def _gather_rows(self, row: NDArray[np.uint16]) -> NDArray[np.uint16]:
        rows = np.empty((self.size, row.size), row.dtype)
        self._link.gather(row.view(np.uint8), rows.view(np.uint8), "allreduce_")
        return rows

    def _broadcast(self, array: NDArray[Any], root: int) -> None:
        self._link.broadcast({root: array}, "broadcast_")

    def _part(self, groups: list[list[int]], name: str, *, on_one_host: bool) -> "TorchCollective | None":
        link = self._link.part(groups, name=name)
        if link is None:
            return None
        group = next(group for group in groups if self.rank in group)
        part = TorchCollective.__new__(TorchCollective)
        part._take(link, self._seat(group, on_one_host=on_one_host))
        return part

    def _release(self) -> None:
        self._link.close()

    def _abandon(self, cause: BaseException | None) -> None:  # noqa: ARG002 - this rank tells it, where it is raised
        self._link.break_off()


class _Meetings:
    """The store through which ranks find each other. It stays until the process ends, or serves another run.

    A rank may open its next collective before rank 0 has closed this one, and must find the store there.
    """

    def __init__(self) -> None:
        self._stores: dict[tuple[str, ...], Any] = {}
        self._num_opened: dict[tuple[str, ...], int] = {}

    def open(self, dist: Any) -> Any:
        """Return a new place in the store that the variables tell of. The k-th of each rank is the same one."""
        variables = tuple(os.environ.get(name, "") for name in (*TORCH_VARIABLES, *_ATTEMPT_VARIABLES))
        if variables not in self._stores:
            self._stores.clear()  # of runs that are over, where a launcher uses a process again
            rank, _, address, port = variables[:4]
            # torchrun's agent serves a store there already; else rank 0 does, also for the user's own groups.
            has_server = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
            self._stores[variables] = dist.TCPStore(
                address,
                int(port),
                is_master=rank == "0" and not has_server,
                timeout=dt.timedelta(seconds=START_S),
                wait_for_workers=False,
                multi_tenant=True,
            )
        place = self._num_opened[variables] = self._num_opened.get(variables, 0) + 1
        return dist.PrefixStore(f"hvdspark/{variables[-1]}/{place}", self._stores[variables])


_meetings: Final = _Meetings()


def _link_of_user() -> GlooLink:
    """Make a group of all ranks of the user's, which stays as it is."""
    dist = _import_distributed()
    launch = Launch.detect()
    size = dist.get_world_size()
    if launch.kind == "torch" and launch.size != size:
        raise ConfigurationError(
            f"the launcher started {launch.size} ranks, but the group that this process initialised has {size}: "
            "initialise torch.distributed with all ranks, or not at all, before you open the collective"
        )
    with _reaching("the ranks of the group that this process initialised"):
        limit = dt.timedelta(seconds=START_S)
        return GlooLink(dist, dist.new_group(backend="gloo", timeout=limit))


def _link_of_launcher() -> GlooLink:
    """Make a group of the ranks that the launcher's variables tell of."""
    launch = Launch.detect()
    missing = [name for name in TORCH_VARIABLES if name not in os.environ]
    if missing:
        launch.refuse_alone("torch", "torch.distributed", "gloo", "mpi")
        raise ConfigurationError(
            f'the collective "torch" finds no {" or ".join(missing)} in the environment: start the program with '
            'torchrun, or initialise torch.distributed before you open the collective; "auto" or "solo" is for one rank'
        )
    rank, size = _place()
    dist = _import_distributed()
    with _reaching(f"MASTER_ADDR={os.environ['MASTER_ADDR']}, MASTER_PORT={os.environ['MASTER_PORT']}, {size} ranks"):
        store = _meetings.open(dist)
        group = dist.ProcessGroupGloo(store, rank, size, dt.timedelta(seconds=START_S))
        return GlooLink(dist, group, store)


def _place() -> tuple[int, int]:
    texts = {name: os.environ[name] for name in ("RANK", "WORLD_SIZE", "MASTER_PORT")}
    for name, text in texts.items():
        if not text.isdecimal():
            raise ConfigurationError(f"the environment variable {name} must be a number, it is {text!r}")
    rank, size, _ = map(int, texts.values())
    if rank >= size:
        raise ConfigurationError(f"RANK is {rank} and WORLD_SIZE is {size}: the ranks are numbered from 0 to size - 1")
    return rank, size


@contextlib.contextmanager
def _reaching(whom: str) -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise CollectiveError(
            f'the collective "torch" on {socket.gethostname()} did not reach all others ({whom}) in {START_S:g} s: a '
            "rank did not start, opened fewer collectives, or is not reached over this host's default network (name "
            f"the right one in GLOO_SOCKET_IFNAME). PyTorch says: {' '.join(str(error).split())}"
        ) from error


def _import_distributed() -> Any:
    try:
        import torch.distributed as dist  # noqa: TID251
    except ImportError as error:
        raise ConfigurationError(f"torch does not import ({error}): pip install 'hvdspark[torch]'") from error
    if not dist.is_available() or not dist.is_gloo_available():
        raise ConfigurationError('the collective "torch" needs Gloo, and this build of torch has none: use "mpi"')
    return dist
