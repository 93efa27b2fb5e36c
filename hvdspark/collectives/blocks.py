"""Messages padded to blocks whose lengths rarely change, so that Horovod's response cache hits.

Horovod remembers the shape that each rank gave under a name. While all shapes stay, a round is agreed by bit mask;
one changed shape costs a full negotiation, some milliseconds. Compressed messages change their length every step, so
each travels in a block: a prefix (true length and capacity among it), the message, and padding up to the capacity.
Horovod returns the blocks end to end without offsets; the prefixes tell where each begins.
"""

from typing import Final

import numpy as np
from numpy.typing import NDArray

from hvdspark.collectives.intent import INTENT_FIELDS, Intent, Operation
from hvdspark.errors import MessageError

__all__ = ["ALIGNMENT_BYTES", "PREFIX_BYTES", "Block", "Capacity", "unpack"]

PREFIX_BYTES: Final = 64  # a cache line: every message starts on one
ALIGNMENT_BYTES: Final = 64
_MAGIC: Final = int.from_bytes(b"hvdsblk1", "little")
_SMALLEST_BYTES: Final = 256
_LARGEST_STEP_BYTES: Final = 1 << 19
# What one missed response costs, in bytes that could have been sent instead: 1 to 8 ms at 1 to 10 Gbit/s.
_MISS_BYTES: Final = 1 << 20


class Capacity:
    """How much room a rank's block has: grows at once, shrinks late.

    Sizes are stepped: four to a doubling from 256 bytes, so at most a quarter is padding, and never more than 512 KiB
    apart, where padding would cost more than it saves. A larger message is given its room at once. Room that is too
    large is kept until the padding sent since it was last needed adds up to what the change costs, as in the
    ski-rental problem: padding and changes together never come to more than twice what foresight would pay.

    Parameters
    ----------
    limit_bytes : int
        No room is larger than this; a multiple of 64.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes - limit_bytes % ALIGNMENT_BYTES
        self._size_bytes = 0
        self._wasted_bytes = 0
        self._needed_bytes = 0

    def fit_announcement(self, length: int) -> int:
        """Return the room in bytes for an operation with no message, or a short one: that of messages, if not long."""
        # While padding costs less than two changes: this round's, and back again at the next message.
        return _stepped(length) if self._size_bytes > 2 * _MISS_BYTES else self.fit(length)

    def fit(self, length: int) -> int:
        """Return the room in bytes for a message of `length` bytes, and remember what was needed."""
        needed = min(_stepped(length), self._limit_bytes)
        if needed >= self._size_bytes:
            self._settle(needed)
            return needed
        self._needed_bytes = max(self._needed_bytes, needed)
        self._wasted_bytes += self._size_bytes - needed
        if self._wasted_bytes > _MISS_BYTES:
            self._settle(self._needed_bytes)
        return self._size_bytes

    def _settle(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self._wasted_bytes = 0
        self._needed_bytes = 0


class Block:
    """One rank's outgoing block, in a buffer that is kept from call to call.

    Parameters
    ----------
    max_message_bytes : int
        Length of the longest message.
    """

    def __init__(self, max_message_bytes: int) -> None:
        self._capacity = Capacity(max_message_bytes + ALIGNMENT_BYTES - 1)
        self._buffer = np.zeros(PREFIX_BYTES + _SMALLEST_BYTES, np.uint8)

    def pack(self, intent: Intent, message: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Lay out prefix, message and padding.

        Parameters
        ----------
        intent : Intent
            Goes into the prefix.
        message : [m] uint8
            Copied.

        Returns
        -------
        [64 + capacity] uint8
            View of the kept buffer, valid until the next call. The padding holds zeros or bytes of older messages.
        """
        fit = self._capacity.fit if intent.operation == Operation.ALLGATHER else self._capacity.fit_announcement
        capacity = fit(message.size)
        if PREFIX_BYTES + capacity > self._buffer.size:
            self._buffer = np.zeros(PREFIX_BYTES + capacity, np.uint8)
        prefix = self._buffer[:PREFIX_BYTES].view(np.int64)
        prefix[0] = _MAGIC
        prefix[1] = capacity
        prefix[2 : 2 + INTENT_FIELDS] = intent
        self._buffer[PREFIX_BYTES : PREFIX_BYTES + message.size] = message
        return self._buffer[: PREFIX_BYTES + capacity]


def unpack(blocks: NDArray[np.uint8], size: int) -> tuple[NDArray[np.int64], list[NDArray[np.uint8]]]:
    """Find each rank's intent and message in blocks laid end to end.

    Parameters
    ----------
    blocks : [b] uint8
        What came from the wire; starts at an address divisible by 8.
    size : int
        How many blocks there must be.

    Returns
    -------
    [size, 4] int64
        The intents in rank order.
    list of uint8
        Read-only views of the messages; empty where the rank's operation has none.

    Raises
    ------
    MessageError
        The bytes are not `size` whole blocks; names the first rank whose block is wrong.
    """
    rows = np.empty((size, INTENT_FIELDS), np.int64)
    messages = []
    start = 0
    for rank in range(size):
        body = start + PREFIX_BYTES
        if body > blocks.size:
            raise MessageError(f"rank {rank}: its block is cut off, {blocks.size - start} bytes are left of it")
        prefix = blocks[start:body].view(np.int64)
        capacity = int(prefix[1])
        if prefix[0] != _MAGIC or not 0 <= capacity <= blocks.size - body or capacity % ALIGNMENT_BYTES:
            raise MessageError(f"rank {rank}: what it sent is no block (another version of hvdspark, or damage)")
        rows[rank] = prefix[2 : 2 + INTENT_FIELDS]
        intent = Intent(*rows[rank].tolist())
        length = intent.length if intent.has_message else 0
        if not 0 <= length <= capacity:
            raise MessageError(f"rank {rank}: a message of {length} bytes cannot be in a block of {capacity}")
        message = blocks[body : body + length]
        message.flags.writeable = False
        messages.append(message)
        start = body + capacity
    if start != blocks.size:
        raise MessageError(f"{blocks.size - start} bytes follow the block of the last rank")
    return rows, messages


def _stepped(length: int) -> int:
    if length <= _SMALLEST_BYTES:
        return _SMALLEST_BYTES
    step = min(1 << ((length - 1).bit_length() - 3), _LARGEST_STEP_BYTES)
    return -(-length // step) * step
