"""Multiples of the threshold in a message: three bits a code, packed behind the codes, in the same way in all formats.

An owner that has summed a region holds small multiples of the ranks' threshold: one sign for each would lose most of
what they have sent.
"""

import functools
import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark.codec.groups import Groups
from hvdspark_kernels.multiples.scalar import BITS, MOST

__all__ = ["BITS", "MOST", "is_filled_up", "largest", "packed_bytes", "read", "values_of", "write"]

_ALL = np.arange(1, MOST + 1)


@functools.cache
def _cpu() -> Any:
    """Load the kernels, and with them Numba, when they are first used; an import in each call would cost as much."""
    from hvdspark_kernels.multiples import cpu

    return cpu


def packed_bytes(count: int, bits: int = BITS) -> int:
    """Return the bytes that the multiples of so many codes take; none where codes have no bits for them."""
    return -(-bits * count // 8)


def write(multiples: NDArray[np.uint8], packed: NDArray[np.uint8]) -> None:
    """Pack ``multiples`` (``[count] uint8``, each 1 to 8) into their bytes of a message."""
    _cpu().write(multiples, packed)


def read(packed: NDArray[np.uint8], multiples: NDArray[np.uint8]) -> None:
    """Unpack; whatever the bytes are, each multiple comes out as 1 to 8."""
    _cpu().read(packed if packed.flags.writeable else packed.copy(), multiples)


def is_filled_up(packed: NDArray[np.uint8], count: int) -> bool:
    """Tell whether the bits behind the last multiple are zero, as `write` leaves them."""
    used = BITS * count % 8
    return not used or int(packed[-1]) >> used == 0


def largest(groups: Groups, multiples: NDArray[np.uint8]) -> float:
    """Return the largest magnitude that a code stands for."""
    ends = list(itertools.accumulate(groups.counts))
    pairs = zip([0, *ends[:-1]], ends, groups.magnitudes, strict=True)
    return max(
        (int(multiples[start:end].max()) * magnitude for start, end, magnitude in pairs if start < end), default=0
    )


def values_of(magnitudes: NDArray[np.float64] | NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what a positive code of each run stands for with each multiple: ``[runs, 8] float32``, rounded once.

    A value that float32 cannot hold is infinite: that of a multiple which no code has, where `largest` was looked at.
    """
    with np.errstate(over="ignore"):
        values: NDArray[np.float32] = np.multiply.outer(magnitudes.astype(np.float64), _ALL).astype(np.float32)
    return values
