"""The dense format: every element as a float32 number. Exact, so that nothing is kept back."""

import numpy as np
from numpy.typing import NDArray

__all__ = ["DenseFormat"]

_CHUNK = 1 << 15  # elements scaled at a time: 128 KiB of scratch stay in the cache


class DenseFormat:
    """``[n] float32``, little-endian: what is added to each element. All are finite."""

    identity = 2
    name = "dense"

    def payload_bytes(self, n: int) -> int:
        """Return four bytes an element."""
        return 4 * n

    def largest(self, payload: NDArray[np.uint8]) -> float:
        """Return the largest magnitude."""
        values = payload.view("<f4")
        return max(float(values.max()), -float(values.min()))

    def check(self, payload: NDArray[np.uint8]) -> str | None:
        """Find the first value that is not finite."""
        values = payload.view("<f4")
        for begin in range(0, values.size, _CHUNK):
            finite = np.isfinite(values[begin : begin + _CHUNK])
            if not finite.all():
                i = begin + int(np.argmin(finite))
                return f"element {i} is {values[i]}"
        return None

    def add(self, payload: NDArray[np.uint8], scale: float, out: NDArray[np.float32]) -> None:
        """Add ``scale * value`` to each element, the product rounded to float32 before it is added."""
        values = payload.view("<f4")
        factor = np.float32(scale)
        scratch = np.empty(min(_CHUNK, out.size), dtype=np.float32)
        for begin in range(0, out.size, _CHUNK):
            part = out[begin : begin + _CHUNK]
            part += np.multiply(values[begin : begin + _CHUNK], factor, out=scratch[: part.size])
