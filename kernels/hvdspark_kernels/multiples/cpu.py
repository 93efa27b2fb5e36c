"""Multiples on CPU cores: taken off the residual where codes were found, packed and unpacked."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark_kernels import threads
from hvdspark_kernels.intrinsics import prefetch
from hvdspark_kernels.jit import jit
from hvdspark_kernels.multiples import scalar
from hvdspark_kernels.multiples.scalar import BITS, MOST

__all__ = ["packed_bytes", "read", "take", "write"]

_AHEAD = 16  # codes; a cache line asked for that much earlier is nearer when its turn comes
_CODES = 1 << 16  # codes that are worth waking a thread for
_BLOCK = 8  # multiples that fill whole bytes

_split = jit(scalar.split)


@jit
def _take(codes: Any, ends: Any, taus: Any, residual: Any, multiples: Any, begin: Any, end: Any) -> Any:
    start = begin
    for run in range(ends.size):
        stop = min(ends[run], end)
        for place in range(start, stop):
            prefetch(residual, abs(np.int64(codes[min(place + _AHEAD, stop - 1)])))
            i = np.uint64(abs(np.int64(codes[place])) - 1)
            if i < np.uint64(residual.size):
                multiples[place], residual[i] = _split(residual[i], taus[run])
        start = max(start, stop)


@jit
def _write(multiples: Any, payload: Any) -> Any:
    place = 0
    for begin in range(0, multiples.size, _BLOCK):
        word = np.uint32(0)
        for j in range(min(_BLOCK, multiples.size - begin)):
            word |= np.uint32((multiples[begin + j] - 1) & (MOST - 1)) << np.uint32(BITS * j)
        for _ in range(min(BITS, payload.size - place)):
            payload[place] = word & np.uint32(0xFF)
            word >>= np.uint32(8)
            place += 1


@jit
def _read(payload: Any, multiples: Any) -> Any:
    place = 0
    for begin in range(0, multiples.size, _BLOCK):
        word = np.uint32(0)
        for j in range(min(BITS, payload.size - place)):
            word |= np.uint32(payload[place]) << np.uint32(8 * j)
            place += 1
        for j in range(min(_BLOCK, multiples.size - begin)):
            multiples[begin + j] = 1 + ((word >> np.uint32(BITS * j)) & np.uint32(MOST - 1))


def packed_bytes(count: int) -> int:
    """Return the bytes that so many multiples take."""
    return -(-BITS * count // 8)


def take(
    codes: NDArray[np.int32],
    ends: NDArray[np.int64],
    taus: NDArray[np.float32],
    residual: NDArray[np.float32],
    multiples: NDArray[np.uint8],
    num_threads: int | None = None,
) -> None:
    """Take the largest multiple of the threshold off each coded element, up to 8, and say which.

    Parameters
    ----------
    codes
        ``[count] int32``, as an encode with steps of zero listed them: every element reaches its threshold.
    ends
        ``[groups] int64``, rising to count: where the codes of each group end.
    taus
        ``[groups] float32``: the threshold of each group.
    residual
        ``[n] float32``, changed in place.
    multiples
        ``[count] uint8``, overwritten: what was taken off, in units of the threshold.
    num_threads
        The most threads to use; None for `hvdspark_kernels.threads.default_num_threads`. It does not change the result.
    """
    kinds = [array.dtype for array in (codes, ends, taus, residual, multiples)]
    if kinds != [np.int32, np.int64, np.float32, np.float32, np.uint8] or multiples.shape != codes.shape:
        raise ValueError(f"codes, ends, taus, residual and multiples have dtypes {kinds}, or not one multiple a code")
    if ends.shape != taus.shape or ends[0] < 0 or ends[-1] != codes.size or (ends[1:] < ends[:-1]).any():
        raise ValueError(f"{taus.size} runs must end in rising order at {codes.size}, not at {ends.tolist()}")
    parts = threads.ranges(codes.size, num_threads, 64, least=_CODES)
    threads.run(lambda begin, end: _take(codes, ends, taus, residual, multiples, begin, end), parts)


def write(multiples: NDArray[np.uint8], payload: NDArray[np.uint8]) -> None:
    """Pack ``multiples`` (``[count] uint8``, each 1 to 8) into a payload of `packed_bytes`."""
    _check(payload, multiples)
    _write(multiples, payload)


def read(payload: NDArray[np.uint8], multiples: NDArray[np.uint8]) -> None:
    """Unpack a payload into ``multiples`` (``[count] uint8``); whatever the bytes are, each comes out as 1 to 8."""
    _check(payload, multiples)
    _read(payload, multiples)


def _check(payload: NDArray[np.uint8], multiples: NDArray[np.uint8]) -> None:
    if payload.dtype != np.uint8 or multiples.dtype != np.uint8 or payload.size != packed_bytes(multiples.size):
        raise ValueError(
            f"{multiples.size} multiples ({multiples.dtype}) take {packed_bytes(multiples.size)} bytes, not "
            f"{payload.size} ({payload.dtype})"
        )
