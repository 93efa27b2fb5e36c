"""Writing and reading in slow, obvious Python: what `cpu.py` must equal byte for byte. Same functions and arguments."""

import numpy as np
from numpy.typing import NDArray

from hvdspark_kernels.ternary.scalar import DIGITS, VALUES, digit

__all__ = ["read", "size", "write"]


def size(n: int) -> int:
    """Return the bytes that `n` elements take."""
    return -(-n // DIGITS)


def write(codes: NDArray[np.int32], n: int, payload: NDArray[np.uint8]) -> None:
    """Write codes: see `hvdspark_kernels.ternary.cpu.write`."""
    elements = np.zeros(size(n) * DIGITS, np.int64)
    elements[np.abs(codes) - 1] = np.where(codes > 0, 1, 2)
    payload[:] = elements.reshape(-1, DIGITS) @ 3 ** np.arange(DIGITS)


def read(payload: NDArray[np.uint8], n: int, codes: NDArray[np.int32]) -> int:
    """Read codes: see `hvdspark_kernels.ternary.cpu.read`."""
    if payload.size != size(n):
        return -1
    found: list[int] = []
    for place, byte in enumerate(payload.tolist()):
        digits = [digit(byte, k) for k in range(DIGITS)]
        if byte >= VALUES or any(digits[max(0, n - place * DIGITS) :]):
            break
        found += [sign * (place * DIGITS + k + 1) for k, sign in enumerate(digits) if sign]
        if len(found) > codes.size:
            break
    else:
        if len(found) == codes.size:
            codes[:] = found
            return codes.size
    return min(len(found), codes.size - 1)
