"""What a rank is about to do, told to all ranks before anything is reduced or overwritten."""

import enum
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvdspark.errors import RankMismatch

__all__ = ["DTYPES", "INTENT_BYTES", "INTENT_FIELDS", "Intent", "Operation", "carries_messages", "require_agreement"]

DTYPES: Final = ("uint8", "float32", "float64", "int32", "int64", "float16")
INTENT_FIELDS: Final = 4
INTENT_BYTES: Final = 8 * INTENT_FIELDS


class Operation(enum.IntEnum):
    """The operations of a collective; the numbers travel, so they never change their meaning."""

    ALLGATHER = 1
    ALLREDUCE = 2
    BROADCAST = 3
    BARRIER = 4
    CLOSE = 5
    SPLIT = 6
    ALLTOALL = 7


_WITH_MESSAGES: Final = frozenset({int(Operation.ALLGATHER), int(Operation.ALLTOALL)})


class Intent(NamedTuple):
    """One rank's next operation, as four 64-bit integers.

    Parameters
    ----------
    operation : int
        An `Operation`.
    dtype : int
        Place in `DTYPES` of the array's dtype; 0 where there is no array.
    root : int
        Rank whose array is broadcast; 0 for the other operations.
    length : int
        Elements of the array, or bytes of the message (an alltoall's holds the lengths of what will follow). Only an
        allgather may differ here from rank to rank.
    """

    operation: int
    dtype: int = 0
    root: int = 0
    length: int = 0

    @property
    def has_message(self) -> bool:
        """Whether a message rides along."""
        return self.operation in _WITH_MESSAGES

    def __str__(self) -> str:
        known = {member.value: member.name.lower() for member in Operation}
        name = known.get(self.operation)
        if name is None or not 0 <= self.dtype < len(DTYPES):
            return f"an unknown operation (code {self.operation}; another version of hvdspark?)"
        array = f"{self.length} {DTYPES[self.dtype]}"
        match self.operation:
            case Operation.ALLREDUCE:
                return f"allreduce_ of {array}"
            case Operation.BROADCAST:
                return f"broadcast_ of {array} from rank {self.root}"
            case _:
                return name


def carries_messages(rows: NDArray[np.int64]) -> bool:
    """Tell whether all ranks are at one operation along with which a message rides.

    Parameters
    ----------
    rows : [size, 4] int64
        The intents in rank order, the same on all ranks.
    """
    operations: list[int] = rows[:, 0].tolist()  # for a few ranks, lists take a fraction of the time of arrays
    return operations[0] in _WITH_MESSAGES and operations.count(operations[0]) == len(operations)


def require_agreement(rows: NDArray[np.int64]) -> None:
    """Check that all ranks are about to do the same.

    Every rank holds the same rows, so either all ranks pass or all raise.

    Parameters
    ----------
    rows : [size, 4] int64
        The intents in rank order.

    Raises
    ------
    RankMismatch
        With what each rank was about to do.
    """
    fields = INTENT_FIELDS - 1 if rows[0, 0] == Operation.ALLGATHER else INTENT_FIELDS
    if rows[:, :fields].tobytes() == rows[0, :fields].tobytes() * len(rows):  # in a fifth of the time of comparing
        return
    ranks_of: dict[str, list[int]] = {}
    for rank, row in enumerate(rows.tolist()):
        ranks_of.setdefault(str(Intent(*row)), []).append(rank)
    parts = "; ".join(f"{text} on {_numbered(ranks)}" for text, ranks in ranks_of.items())
    raise RankMismatch(
        f"the ranks are not at the same operation: {parts}. Nothing was exchanged. All ranks must call the same "
        "operations in the same order, with arrays of one shape and dtype and one root"
    )


def _numbered(ranks: list[int]) -> str:
    shown = ", ".join(str(rank) for rank in ranks[:8])
    rest = f" and {len(ranks) - 8} more" if len(ranks) > 8 else ""
    return f"rank {shown}" if len(ranks) == 1 else f"ranks {shown}{rest}"
