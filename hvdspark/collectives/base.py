"""The seam between training and the wire: what every set of ranks can do together."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, ClassVar, Final, Self, TypeVar, final

import numpy as np
from numpy.typing import NDArray

from hvdspark.collectives.arrays import chunks, require_array, require_lengths, require_message, require_messages
from hvdspark.collectives.intent import DTYPES, Intent, Operation, require_agreement
from hvdspark.collectives.transport import Transport
from hvdspark.collectives.tree import by_host, levels
from hvdspark.collectives.turns import Turns
from hvdspark.errors import CollectiveError, ConfigurationError, RankLost, UnsupportedError

__all__ = ["Collective"]

Result = TypeVar("Result")

_MAX_TOTAL_BYTES: Final = (1 << 31) - 1
_NOTHING: Final = np.empty(0, np.uint8)
_BLOCK_OVERHEAD_BYTES: Final = 128  # prefix and alignment that a transport may add to a message


class Collective(Transport):
    """Ranks that exchange bytes and arrays. A context manager: closed on success, aborted on an exception.

    Every implementation keeps these laws; ``tests/contracts/collective.py`` holds each of them to account.

    1. **Order.** `allgather` returns one message a rank, in rank order, byte for byte what that rank gave, on all
       ranks; `alltoall` what each rank gave for this one. Messages may be empty and may differ in length from rank to
       rank and call to call.
    2. **Views.** What `allgather` and `alltoall` return is read-only, starts at an address divisible by 8, does not
       alias the caller's messages, and stays valid until the next call on this collective.
    3. **Same bits.** After `allreduce_` and `broadcast_` every rank holds the same bits. Integers wrap round;
       the order of summation is the transport's, and the same on all ranks. float16 is summed in float32, in rank
       order, and rounded once, to nearest even: the same bits from every transport. NumPy has no bfloat16: give
       `broadcast_` its bytes, and sum it in float32.
    4. **Together or not at all.** Before an operation touches an array, all ranks tell each other what they are
       about to do. If they differ (operation, element count, dtype, root), all ranks raise `RankMismatch`, no array is
       changed, and the collective stays usable. For `allgather` this costs nothing: it rides in front of
       the message. `allreduce_` and `broadcast_` pay one exchange for it: of 256 bytes a rank, under Horovod of a
       block as long as that of the last message, up to 2 MiB (docs/adr/0003). `alltoall` too, and tells in it how long
       its messages are, 4 bytes each.
    5. **Refused early.** A wrong number, dtype, shape or memory layout raises `UnsupportedError` before anything is
       sent.
    6. **No orphan.** If a rank dies or aborts, the others raise `RankLost` in their current or next operation (or
       the launcher ends them, as ``mpirun`` does). After `RankLost` only `abort` is possible.
    7. **End.** `close` returns once all ranks have called it. It can be called twice. Operations after `close` or
       `abort` raise `CollectiveError`.
    8. **Parts.** `local`, `leaders` and `levels` are collectives that keep these laws among their own ranks, which are
       numbered in the order of this one's. They end with this one, if not before. They have no parts of their own.
    9. **Threads.** One thread of a rank uses a collective and its parts at a time; a second one is refused with
       `CollectiveError`. What `start` does on a thread of its own comes before all that is called after it: operations
       of other threads, `close` among them, wait for it. `abort` waits for nothing.

    Parameters
    ----------
    rank, size : int
        This rank's number, and how many there are.
    local_rank, local_size : int
        The same among the ranks of this host.
    host : str
        Name of this host.
    timeout_s : float, optional
        Seconds that an operation waits for the other ranks before it raises `RankLost`. None: as long as the
        transport itself allows.

    Attributes
    ----------
    name : str
        How `open_collective` knows the implementation.
    rank, size, local_rank, local_size, host
        As above.
    unfinished : list of callable
        Called by `close` before the ranks meet, in the same order on all ranks; what they raise, `close` raises. Who
        has something under way adds and removes it.
    """

    _has_transport: ClassVar[bool] = True

    def __init__(
        self, *, rank: int, size: int, local_rank: int, local_size: int, host: str, timeout_s: float | None = None
    ) -> None:
        super().__init__(
            rank=rank, size=size, local_rank=local_rank, local_size=local_size, host=host, timeout_s=timeout_s
        )
        self._ended = ""
        self._lost: RankLost | None = None
        self._parts: tuple[Collective, Collective | None] | None = None
        self._levels: dict[int, list[Collective | None]] = {}
        self._leading: list[int] = []  # the first rank of each host
        self._made: list[Collective] = []
        self._is_part = False
        self._turns = Turns(self)
        self.unfinished: Final[list[Callable[[], None]]] = []

    @property
    def sent_bytes(self) -> int:
        """Bytes that this rank has handed to the transport so far.

        An `allgather` counts its message, padding and prefix; an `alltoall` what goes to other ranks; `allreduce_`
        and the root of a `broadcast_` count the array once (what a ring of N ranks then carries, 2 (N - 1) / N times
        as much, is not measured); each announcement of an operation counts too. A lone rank without transport
        (``solo``) sends nothing.
        """
        return self._sent.total if self._has_transport else 0

    @property
    def thread_sent_bytes(self) -> int:
        """Those of `sent_bytes` that the calling thread has sent: what `start` does meanwhile is not among them."""
        return self._sent.here if self._has_transport else 0

    @property
    def max_message_bytes(self) -> int:
        """Length of the longest message that `allgather` and `alltoall` take: one from each rank is below 2 GiB."""
        return _MAX_TOTAL_BYTES // self.size - _BLOCK_OVERHEAD_BYTES

    @final
    def allgather(self, message: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
        """Give every rank every rank's message.

        Parameters
        ----------
        message : [m] uint8
            This rank's message, contiguous; m may be 0 and may differ between ranks. Not modified, and free to be
            reused once the call returns.

        Returns
        -------
        list of [m_r] uint8
            One read-only view a rank, valid until the next call.

        Raises
        ------
        UnsupportedError
            The message is of another kind, or longer than `max_message_bytes`.
        RankMismatch
            Another rank was at another operation.
        RankLost
            Another rank failed.
        """
        require_message(message, "allgather", self.size, self.max_message_bytes)
        with self._turns.taken("allgather", self._note_loss):
            return self._met(Intent(Operation.ALLGATHER, length=message.size), message)

    @final
    def alltoall(self, messages: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
        """Give each rank a message of its own.

        Parameters
        ----------
        messages : sequence of [m_q] uint8
            Message q is for rank q, this rank's own among them; each contiguous and of any length, 0 too. Not
            modified, and free to be reused once the call returns.

        Returns
        -------
        list of [m_r] uint8
            What rank r gave for this one: read-only views, valid until the next call.

        Raises
        ------
        UnsupportedError
            There is not one message a rank, or one is of another kind or longer than `max_message_bytes`.
        RankMismatch
            Another rank was at another operation.
        RankLost
            Another rank failed.
        """
        lengths = require_messages(messages, "alltoall", self.size, self.max_message_bytes)
        with self._turns.taken("alltoall", self._note_loss):
            told = self._met(Intent(Operation.ALLTOALL, length=lengths.nbytes), lengths.view(np.uint8))
            coming = [int(theirs.view(np.int32)[self.rank]) for theirs in told]
            require_lengths(coming, self.max_message_bytes)
            return self._alltoall(messages, coming)

    @final
    def allreduce_(self, array: NDArray[Any]) -> None:
        """Replace the array by its sum over the ranks, in place.

        Parameters
        ----------
        array : [n] float16, float32, float64, int32 or int64
            Contiguous, writable, of one length and dtype on all ranks. Overwritten.

        Raises
        ------
        UnsupportedError
            The array is of another kind.
        RankMismatch
            Ranks differ in n, dtype or operation. All ranks raise and no array is changed.
        RankLost
            Another rank failed; the array may be half summed.
        """
        require_array(array, "allreduce_", DTYPES[1:], writable=True)
        with self._turns.taken("allreduce_", self._note_loss):
            self._met(Intent(Operation.ALLREDUCE, DTYPES.index(array.dtype.name), 0, array.size))
            for part in chunks(array):
                self._allreduce(part)
                self._sent.add(part.nbytes)

    @final
    def broadcast_(self, array: NDArray[Any], root: int = 0) -> None:
        """Replace the array by the root's, in place.

        Parameters
        ----------
        array : [n] float16, float32, float64, int32, int64 or uint8
            Contiguous, writable, of one length and dtype on all ranks. Overwritten on all ranks but the root.
        root : int
            The rank that gives.

        Raises
        ------
        ConfigurationError
            There is no such root.
        UnsupportedError
            The array is of another kind.
        RankMismatch
            Ranks differ in n, dtype, root or operation. All ranks raise and no array is changed.
        RankLost
            Another rank failed; the array may be half overwritten.
        """
        require_array(array, "broadcast_", DTYPES, writable=True)
        if not 0 <= root < self.size:
            raise ConfigurationError(f"broadcast_: root {root!r} is not a rank, the ranks are 0 to {self.size - 1}")
        with self._turns.taken("broadcast_", self._note_loss):
            self._met(Intent(Operation.BROADCAST, DTYPES.index(array.dtype.name), root, array.size))
            for part in chunks(array):
                self._broadcast(part, root)
                self._sent.add(part.nbytes if self.rank == root else 0)

    @final
    def barrier(self) -> None:
        """Return once every rank has called it.

        Raises
        ------
        RankMismatch
            Another rank was at another operation.
        RankLost
            Another rank failed.
        """
        with self._turns.taken("barrier", self._note_loss):
            self._met(Intent(Operation.BARRIER))

    @final
    def start(self, work: Callable[[], Result]) -> Future[Result]:
        """Do something on a thread of its own, and return at once; all ranks start it between the same operations.

        Parameters
        ----------
        work : callable
            May use this collective and its parts; operations of other threads wait until it is done.

        Returns
        -------
        Future
            Of what the work returns or raises.

        Raises
        ------
        CollectiveError
            The collective is closed or aborted.
        """
        self._require_open("start")
        return self._turns.start(work)

    @final
    def local(self) -> "Collective":
        """Return the collective of the ranks of this host.

        The first call of `local` or `leaders` is an operation, which all ranks do together; later ones are free.

        Raises
        ------
        UnsupportedError
            This collective is a part itself, or the transport cannot be split as it was started.
        RankMismatch
            Another rank was at another operation.
        RankLost
            Another rank failed.
        """
        return self._split()[0]

    @final
    def leaders(self) -> "Collective | None":
        """Return the collective of the first ranks of all hosts; None on the other ranks. Raises what `local` does."""
        return self._split()[1]

    @final
    def levels(self, fan_out: int) -> "list[Collective | None]":
        """Return this rank's parts in a tree of hosts: one a level, lowest first; None where it is in no group.

        Groups are of `fan_out` first ranks of hosts at most (2 or more), then of first ranks of groups, up to a single
        one. The first call with a `fan_out` is an operation. Raises what `local` does.
        """
        self._split()
        if fan_out not in self._levels:
            with self._turns.taken("split", self._note_loss):
                self._met(Intent(Operation.SPLIT, length=fan_out))
                self._levels[fan_out] = [
                    self._make(groups, f"level.{fan_out}.{height}", on_one_host=False)
                    for height, groups in enumerate(levels(self._leading, fan_out))
                ]
        return list(self._levels[fan_out])

    @final
    def close(self) -> None:
        """End what is under way, meet all ranks, then release what is held. Does nothing the second time.

        Raises
        ------
        RankMismatch
            Another rank was at another operation; the collective stays open.
        RankLost
            Another rank failed.
        """
        if self._ended:
            return
        with self._turns.taken("close", self._note_loss):
            for finish in tuple(self.unfinished):
                finish()
            self._met(Intent(Operation.CLOSE))
            for ending in (*self._made, self):
                if not ending._ended:
                    ending._ended = "closed"
                    ending._release()
        self._turns.end(self)

    @final
    def abort(self, cause: BaseException | None = None) -> None:
        """Give up: the other ranks raise `RankLost` soon instead of waiting. Does nothing once closed or aborted.

        Parameters
        ----------
        cause : BaseException, optional
            Why; told to the other ranks, or written to standard error, where the transport can.
        """
        if self._ended:
            return
        self._ended = "aborted"
        for part in self._made:
            part.abort(cause)
        self._abandon(cause)
        self._turns.end(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.abort(error)
            return
        try:
            self.close()
        except BaseException as failure:
            self.abort(failure)
            raise

    def _split(self) -> "tuple[Collective, Collective | None]":
        if self._is_part:
            raise UnsupportedError("a part of a collective cannot be split: call local() or leaders() on the whole")
        if self._parts is None or self._ended:
            with self._turns.taken("split", self._note_loss):
                self._met(Intent(Operation.SPLIT))
                groups = by_host(self.allgather(np.frombuffer(self.host.encode(), np.uint8)))
                self._leading = [group[0] for group in groups]
                local = self._make(groups, "local", on_one_host=True)
                assert local is not None
                self._parts = local, self._make([self._leading], "leaders", on_one_host=False)
        return self._parts

    def _make(self, groups: list[list[int]], name: str, *, on_one_host: bool) -> "Collective | None":
        part = self._part(groups, name, on_one_host=on_one_host)
        if part is not None:
            part._is_part, part._turns = True, self._turns
            self._made.append(part)
        return part

    def _met(self, intent: Intent, message: NDArray[np.uint8] = _NOTHING) -> list[NDArray[np.uint8]]:
        self._require_open(intent)
        if self._lost is not None:
            raise RankLost(f"{intent}: an earlier operation failed already: {self._lost}")
        rows, messages = self._meet(intent, message)
        require_agreement(rows)
        return messages

    def _require_open(self, operation: str | Intent) -> None:
        if self._ended:
            raise CollectiveError(f"{operation}: this collective is {self._ended}; open another one")

    def _note_loss(self, error: RankLost) -> None:
        self._lost = error
