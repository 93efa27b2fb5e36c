"""The sparse format: a list of signed one-based indices, four bytes each. The only codes of Strom (2015)."""

# ruff: noqa: ARG002  # what one format needs of the common signature, another does not

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark.codec.format import Format

__all__ = ["SparseFormat"]


class SparseFormat(Format):
    """``[count] int32``, little-endian: ``+(i + 1)`` adds tau to element i, ``-(i + 1)`` subtracts it; indices rise."""

    identity = 1
    name = "sparse"
    coded = True

    def payload_bytes(self, n: int, count: int) -> int:
        """Return four bytes a code."""
        return 4 * count

    def write(self, content: NDArray[Any], payload: NDArray[np.uint8]) -> None:
        """Copy the codes, unless the kernel has put them there already."""
        if content.size and content.ctypes.data != payload.ctypes.data:
            payload.view("<i4")[:] = content

    def check(self, payload: NDArray[np.uint8], n: int, count: int) -> str | None:
        """Find the first code that is zero, beyond `n`, repeated or out of order."""
        from hvdspark_kernels.threshold.cpu import first_bad_code

        codes = _codes(payload)
        place = first_bad_code(codes, n)
        if place < 0:
            return None
        before = f"{codes[place - 1]} before it" if place else "the first"
        return f"code {place} is {codes[place]} ({before}): indices must rise strictly from 1 to {n}"

    def add(self, payload: NDArray[np.uint8], tau: float, scale: float, out: NDArray[np.float32]) -> None:
        """Add ``+-scale * tau``, rounded to float32 once, to each coded element."""
        from hvdspark_kernels.threshold.cpu import add_codes

        add_codes(_codes(payload), scale * tau, out)


def _codes(payload: NDArray[np.uint8]) -> NDArray[np.int32]:
    """View a payload as codes; a copy where it is read-only or lies askew, for which kernels are not compiled."""
    codes: NDArray[np.int32] = payload.view("<i4")
    if not (codes.flags.aligned and codes.flags.writeable):
        codes = codes.copy()
    return codes.astype(np.int32, copy=False)
