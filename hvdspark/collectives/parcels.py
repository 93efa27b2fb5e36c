"""Messages to different ranks in one buffer, end to end, as alltoall operations want them."""

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["Parcels", "padded", "unpack_parcels"]

_ALIGNMENT_BYTES: Final = 8  # what a reader of a message may count on


class Parcels:
    """One rank's outgoing messages, in a buffer that is kept from call to call and only grows.

    Attributes
    ----------
    buffer : [b] uint8
        What was packed last, and room behind it.
    """

    def __init__(self) -> None:
        self.buffer = np.empty(1, np.uint8)

    def pack(self, messages: Sequence[NDArray[np.uint8]]) -> list[int]:
        """Copy the messages into `buffer`, each padded to a multiple of 8 bytes; return their padded lengths."""
        lengths = [padded(message.size) for message in messages]
        total = sum(lengths)
        if self.buffer.size < total:
            self.buffer = np.zeros(total + total // 4, np.uint8)
        start = 0
        for message, length in zip(messages, lengths, strict=True):
            self.buffer[start : start + message.size] = message
            start += length
        return lengths


def unpack_parcels(buffer: NDArray[np.uint8], lengths: Sequence[int]) -> list[NDArray[np.uint8]]:
    """Return read-only views of messages of some true lengths, laid end to end as `Parcels` does."""
    views = buffer.view()
    views.flags.writeable = False
    messages, start = [], 0
    for length in lengths:
        messages.append(views[start : start + length])
        start += padded(length)
    return messages


def padded(length: int) -> int:
    """Return the bytes that a message takes in a buffer of several."""
    return -(-length // _ALIGNMENT_BYTES) * _ALIGNMENT_BYTES
