"""The dense format: every element as a float32 number. Exact, and the smallest where everything is to be sent."""

# ruff: noqa: ARG002  # what one format needs of the common signature, another does not

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark.codec.format import Format

__all__ = ["DenseFormat"]

_CHUNK = 1 << 15  # elements scaled at a time: 128 KiB of scratch stay in the cache


class DenseFormat(Format):
    """``[n] float32``, little-endian: what is added to each element. All are finite."""

    identity = 2
    name = "dense"
    coded = False

    def payload_bytes(self, n: int, count: int) -> int:
        """Return four bytes an element."""
        return 4 * n

    def write(self, content: NDArray[Any], payload: NDArray[np.uint8]) -> None:
        """Copy the values, unless they were computed there already."""
        if content.ctypes.data != payload.ctypes.data:
            payload.view("<f4")[:] = content

    def check(self, payload: NDArray[np.uint8], n: int, count: int) -> str | None:
        """Find a count that is not `n`, or the first value that is not finite."""
        if count != n:
            return f"a dense message of {n} elements carries all of them, not {count}"
        values = payload.view("<f4")
        for begin in range(0, n, _CHUNK):
            finite = np.isfinite(values[begin : begin + _CHUNK])
            if not finite.all():
                i = begin + int(np.argmin(finite))
                return f"element {i} is {values[i]}"
        return None

    def add(self, payload: NDArray[np.uint8], tau: float, scale: float, out: NDArray[np.float32]) -> None:
        """Add ``scale * value`` to each element, the product rounded to float32 before it is added."""
        values = payload.view("<f4")
        factor = np.float32(scale)
        scratch = np.empty(min(_CHUNK, out.size), dtype=np.float32)
        for begin in range(0, out.size, _CHUNK):
            part = out[begin : begin + _CHUNK]
            scaled = np.multiply(values[begin : begin + _CHUNK], factor, out=scratch[: part.size])
            part += scaled
