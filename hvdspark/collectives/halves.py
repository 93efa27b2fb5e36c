"""Sums of float16 arrays that are rounded once: half the bytes of float32 on the wire, float32 in the arithmetic.

Transports that add in float16 round after every addition, each in its own order, and 60,000 + 60,000 - 60,000 is
infinity to them. MPI before version 5 has no such type at all.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["allreduce_halves", "sum_of_halves"]

Bits: TypeAlias = NDArray[np.uint16]


def sum_of_halves(rows: Iterable[NDArray[Any]]) -> NDArray[np.float16]:
    """Add ``[n] float16`` rows in float32, in their order, and round the sum to the nearest float16, ties to even."""
    first, *others = rows
    total = first.astype(np.float32)
    with np.errstate(all="ignore"):  # as on the wire: infinity and NaN are results, not warnings
        for row in others:
            total += row
        return total.astype(np.float16)


def allreduce_halves(
    array: NDArray[Any], size: int, swap: Callable[[Bits], Bits], gather: Callable[[Bits], Bits]
) -> None:
    """Sum over the ranks in place: each rank sums one share of the array, and gives its sum to all.

    A rank sends 2 (size - 1) / size times the array's bytes, like a ring.

    Parameters
    ----------
    array : [n] float16
        Overwritten.
    size : int
        How many ranks.
    swap : callable
        From ``[size, k] uint16``, row r for rank r, to ``[size, k]``, row r from rank r.
    gather : callable
        From ``[k] uint16`` to ``[size, k]``, row r from rank r.
    """
    share = -(-array.size // size)
    given = np.zeros((size, share), np.float16)
    given.reshape(-1)[: array.size] = array
    mine = sum_of_halves(swap(given.view(np.uint16)).view(np.float16))
    array[:] = gather(mine.view(np.uint16)).view(np.float16).reshape(-1)[: array.size]
