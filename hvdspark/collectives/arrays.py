"""What a collective takes: the checks of arrays and messages before anything is sent."""

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark.errors import MessageError, UnsupportedError

__all__ = ["DENSE_CHUNK_BYTES", "chunks", "require_array", "require_lengths", "require_message", "require_messages"]

# MPI and Horovod count in 32-bit integers; larger arrays go in parts of this many bytes.
DENSE_CHUNK_BYTES = 1 << 30


@functools.cache
def _native(names: tuple[str, ...]) -> frozenset[np.dtype[Any]]:
    """Return dtypes by their names: a dtype is found in a set in a tenth of the time that its name takes."""
    return frozenset(map(np.dtype, names))


def require_array(array: NDArray[Any], operation: str, dtypes: tuple[str, ...], *, writable: bool = False) -> None:
    """Check that an array is of one dimension, contiguous and of one of some dtypes.

    Raises
    ------
    UnsupportedError
        It is not; names the operation.
    """
    if not isinstance(array, np.ndarray):
        raise UnsupportedError(f"{operation}: a NumPy array is needed, this is a {type(array).__name__}")
    if array.dtype not in _native(dtypes):
        raise UnsupportedError(f"{operation}: an array of {' or '.join(dtypes)} is needed, this is {array.dtype!r}")
    if array.ndim != 1 or not array.flags.c_contiguous:
        raise UnsupportedError(
            f"{operation}: a contiguous array of one dimension is needed, this has shape {array.shape} and strides "
            f"{array.strides}; pass np.ascontiguousarray(array).reshape(-1)"
        )
    if writable and not array.flags.writeable:
        raise UnsupportedError(f"{operation}: the array is overwritten, but this one is read-only; pass a copy")


def require_message(message: NDArray[np.uint8], operation: str, size: int, max_message_bytes: int) -> None:
    """Check that a message is of bytes and not too long; raises what `require_array` does."""
    require_array(message, operation, ("uint8",))
    if message.size > max_message_bytes:
        raise UnsupportedError(
            f"{operation}: a message of {message.size} bytes is too long, {size} ranks can send {max_message_bytes} "
            "bytes each; send less at a time, or reduce dense arrays with allreduce_"
        )


def require_messages(
    messages: Sequence[NDArray[np.uint8]], operation: str, size: int, max_message_bytes: int
) -> NDArray[np.int32]:
    """Check that there is one message a rank, each as `require_message` wants it.

    Returns
    -------
    [size] int32
        Their lengths.
    """
    if isinstance(messages, np.ndarray) or not isinstance(messages, Sequence):
        raise UnsupportedError(
            f"{operation}: a sequence of messages is needed, one a rank, this is a {type(messages).__name__}"
        )
    if len(messages) != size:
        raise UnsupportedError(f"{operation}: one message a rank is needed, {size} of them, there are {len(messages)}")
    for message in messages:
        require_message(message, operation, size, max_message_bytes)
    return np.array([message.size for message in messages], np.int32)


def require_lengths(lengths: Sequence[int], max_message_bytes: int) -> None:
    """Check what ranks announce, before memory is taken on a sick peer's word.

    Raises
    ------
    MessageError
        A rank's message would be longer than any may be, or shorter than nothing.
    """
    for rank, length in enumerate(lengths):
        if not 0 <= length <= max_message_bytes:
            raise MessageError(f"rank {rank} announced a message of {length} bytes, the limit is {max_message_bytes}")


def chunks(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Cut an array into views of at most `DENSE_CHUNK_BYTES`."""
    length = max(1, DENSE_CHUNK_BYTES // array.itemsize)
    for start in range(0, array.size, length):
        yield array[start : start + length]
