"""The kernels in slow, obvious NumPy: what the others must equal bit for bit. Same functions, same arguments."""

import numpy as np
from numpy.typing import NDArray

from hvdspark_kernels.multiples.scalar import BITS, split

__all__ = ["read", "take", "write"]


def take(
    codes: NDArray[np.int32],
    ends: NDArray[np.int64],
    taus: NDArray[np.float32],
    residual: NDArray[np.float32],
    multiples: NDArray[np.uint8],
) -> None:
    """Take multiples off coded elements: see `hvdspark_kernels.multiples.cpu.take`."""
    run = 0
    for place, code in enumerate(codes.tolist()):
        while place >= ends[run]:
            run += 1
        if 1 <= abs(code) <= residual.size:
            with np.errstate(over="ignore"):
                multiples[place], residual[abs(code) - 1] = split(residual[abs(code) - 1], taus[run])


def write(multiples: NDArray[np.uint8], payload: NDArray[np.uint8]) -> None:
    """Pack: see `hvdspark_kernels.multiples.cpu.write`."""
    bits = (multiples[:, None] - 1 >> np.arange(BITS)) & 1
    payload[:] = np.packbits(bits.astype(np.uint8).ravel(), bitorder="little")


def read(payload: NDArray[np.uint8], multiples: NDArray[np.uint8]) -> None:
    """Unpack: see `hvdspark_kernels.multiples.cpu.read`."""
    bits = np.unpackbits(payload, count=BITS * multiples.size, bitorder="little").reshape(multiples.size, BITS)
    multiples[:] = 1 + (bits << np.arange(BITS)).sum(axis=1)
