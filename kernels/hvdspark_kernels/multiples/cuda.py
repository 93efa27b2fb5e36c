"""Multiples on an NVIDIA GPU: taken off the residual where codes were found."""

from typing import Any

import numpy as np
from numba import cuda
from numpy.typing import NDArray

from hvdspark_kernels import device
from hvdspark_kernels.multiples import scalar

__all__ = ["take"]

_split = device.jit(scalar.split)


@device.kernel()
def _take(codes: Any, ends: Any, taus: Any, residual: Any, multiples: Any) -> None:
    """Take a multiple off each coded element: a thread each."""
    place = cuda.grid(1)
    if place >= codes.size:
        return
    run = device.run_of(ends, place)
    i = abs(codes[place]) - 1  # 64 bits wide, as all sums of integers here: the smallest int32 has a positive twin
    if 0 <= i < residual.size:
        multiple, residual[i] = _split(residual[i], taus[run])
        multiples[place] = multiple


def take(
    codes: Any, ends: NDArray[np.int64], taus: NDArray[np.float32], residual: Any, stream: int = 0
) -> NDArray[np.uint8]:
    """Take multiples off coded elements, as `hvdspark_kernels.multiples.cpu.take`; return them, ``[count] uint8``.

    Parameters
    ----------
    codes
        ``[count] int32`` on the device.
    ends, taus
        ``[groups]``, NumPy: where the codes of each group end, and its threshold.
    residual
        ``[n] float32`` on the device, changed in place.
    stream
        A ``cudaStream_t``; 0 is the default stream. It is waited for.
    """
    codes, residual = device.as_device(codes, np.int32), device.as_device(residual, np.float32)
    if ends.dtype != np.int64 or taus.dtype != np.float32 or ends.shape != taus.shape:
        raise ValueError(f"{ends.size} ends of {ends.dtype} do not fit {taus.size} thresholds of {taus.dtype}")
    if ends[0] < 0 or ends[-1] != codes.size or (ends[1:] < ends[:-1]).any():
        raise ValueError(f"runs must end in rising order at {codes.size}, not at {ends.tolist()}")
    if not codes.size:
        return np.empty(0, np.uint8)
    queue = device.stream_of(stream)
    multiples = cuda.device_array(codes.size, np.uint8, stream=queue)
    run_ends, run_taus = cuda.to_device(ends, stream=queue), cuda.to_device(taus, stream=queue)
    _take[device.grid(codes.size), device.THREADS, queue](codes, run_ends, run_taus, residual, multiples)
    return device.to_host(multiples, queue)
