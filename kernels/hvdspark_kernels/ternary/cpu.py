"""Writing and reading on a CPU core: a byte, with its five elements, at a time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark_kernels.jit import jit
from hvdspark_kernels.ternary.row import LANES, put_row
from hvdspark_kernels.ternary.scalar import DIGITS, VALUES, digit

__all__ = ["read", "size", "write"]

_POWERS = 3 ** np.arange(DIGITS)


def _rows() -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return for every byte how many of its elements are not zero, and a row of their places, 1 to 5, with their signs.

    Bytes that mean nothing have no elements.
    """
    counts, places = np.zeros(256, np.int64), np.zeros((256, LANES), np.int32)
    for byte in range(VALUES):
        found = [digit(byte, k) * (k + 1) for k in range(DIGITS) if digit(byte, k)]
        counts[byte], places[byte, : len(found)] = len(found), found
    return counts, places.reshape(-1)


_COUNTS, _PLACES = _rows()


def size(n: int) -> int:
    """Return the bytes that `n` elements take."""
    return -(-n // DIGITS)


@jit
def _write(codes: Any, payload: Any) -> Any:
    for place in range(codes.size):
        i = np.uint64(abs(np.int64(codes[place])) - 1)
        byte = i // np.uint64(DIGITS)
        if byte < np.uint64(payload.size):  # codes are good and the payload fits; a write outside stays impossible
            payload[byte] += _POWERS[i - byte * np.uint64(DIGITS)] * (1 if codes[place] > 0 else 2)


@jit
def _read(payload: Any, limit: Any, codes: Any) -> Any:
    """Return how many codes there are, or -1 less those in front of the first fault.

    A fault: more elements than there is room for, a byte that means nothing, a last one that reaches `limit`.
    """
    count = 0
    for place in range(payload.size):
        byte, first = np.int64(payload[place]), np.int32(DIGITS * place)
        if byte >= (VALUES if place + 1 < payload.size else limit):
            return -1 - count
        found = _COUNTS[byte]
        if count + LANES <= codes.size:
            put_row(codes, count, _PLACES, LANES * byte, first)  # the next one overwrites what is beyond `found`
        else:
            for k in range(min(found, codes.size - count)):
                place_in_byte = _PLACES[LANES * byte + k]
                codes[count + k] = place_in_byte + (first if place_in_byte > 0 else -first)
            if count + found > codes.size:
                return -1 - codes.size
        count += found
    return count


def write(codes: NDArray[np.int32], n: int, payload: NDArray[np.uint8]) -> None:
    """Write codes.

    Parameters
    ----------
    codes
        ``[count] int32``, rising in magnitude, no zero, at most `n`.
    n
        Number of elements.
    payload
        ``[size(n)] uint8``, overwritten.
    """
    if payload.size != size(n):
        raise ValueError(f"{n} elements take {size(n)} bytes, not {payload.size}")
    payload.fill(0)
    _write(codes, payload)


def read(payload: NDArray[np.uint8], n: int, codes: NDArray[np.int32]) -> int:
    """Read codes, whatever the bytes are: nothing is read outside of the payload, nothing written outside of ``codes``.

    On one thread: where another one's codes begin is known only from counting, which takes as long as it would save.

    Parameters
    ----------
    payload
        ``[size(n)] uint8``, writable or not.
    n
        Number of elements, below ``2**31``.
    codes
        ``[count] int32``, contiguous, overwritten.

    Returns
    -------
    int
        `count` if the payload is just what `write` makes of these codes; else less: the codes in front of the first
        fault, or -1 for a payload of another size or one of elements without codes.
    """
    if payload.dtype != np.uint8 or codes.dtype != np.int32 or codes.ndim != 1 or not codes.flags.c_contiguous:
        shapes = f"{payload.dtype}{list(payload.shape)} into {codes.dtype}{list(codes.shape)}"
        raise ValueError(f"uint8 is read into a contiguous int32 array [count], not {shapes}")
    if payload.size != size(n):
        return -1
    limit = VALUES if n % DIGITS == 0 else 3 ** (n % DIGITS)  # of the last byte: elements from `n` on are zero
    count = int(_read(payload, limit, codes))
    return count if count == codes.size else min(-1 - count if count < 0 else count, codes.size - 1)
