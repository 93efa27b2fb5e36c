"""Writing and reading on a CPU core: a byte, with its five elements, at a time."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark_kernels.jit import jit
from hvdspark_kernels.ternary.scalar import DIGITS, VALUES, digit

__all__ = ["read", "size", "write"]

_POWERS = 3 ** np.arange(DIGITS)
_ELEMENTS = np.array([[digit(byte, place) for place in range(DIGITS)] for byte in range(VALUES)], np.int32)


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
def _read(payload: Any, n: Any, codes: Any) -> Any:
    """Return the number of codes found, or -1 less those in front of the first byte that is not good."""
    count = 0
    for place in range(payload.size):
        byte, first = np.int64(payload[place]), np.int64(place) * DIGITS
        if byte >= VALUES:
            return -1 - count
        if count + DIGITS <= codes.size and first + DIGITS <= n:
            for k in range(DIGITS):  # a zero is written as well, and the next one takes its place: no branch
                element = _ELEMENTS[byte, k]
                codes[count] = element * (first + k + 1)
                count += element != 0
            continue
        for k in range(DIGITS):
            element = _ELEMENTS[byte, k]
            if element:
                if first + k >= n or count >= codes.size:
                    return -1 - count
                codes[count] = element * (first + k + 1)
                count += 1
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

    Returns
    -------
    int
        The number of codes if the payload is just what `write` makes of them; else less: those in front of the first
        fault.
    """
    if payload.size != size(n):
        return -1
    count = int(_read(payload, n, codes))
    return count if count == codes.size else min(-1 - count if count < 0 else count, codes.size - 1)
