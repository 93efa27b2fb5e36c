"""The kernels in slow, obvious NumPy: what `cpu.py` must equal bit for bit. Same functions, same arguments."""

import numpy as np
from numpy.typing import NDArray

from hvdspark_kernels.threshold.scalar import outside, quantise

__all__ = ["add_codes", "encode", "encode_difference", "first_bad_code", "first_outside", "first_outside_difference"]


def encode(
    residual: NDArray[np.float32], update: NDArray[np.float32], tau: float, codes: NDArray[np.int32]
) -> tuple[int, int]:
    """Accumulate, quantise, compact: see `hvdspark_kernels.threshold.cpu.encode`."""
    threshold = np.float32(tau)
    residual += update
    count, bad = 0, -1
    for i in range(residual.size):
        total = residual[i]
        if not np.isfinite(total):
            bad = i if bad < 0 else bad
            continue
        sign, residual[i] = quantise(total, threshold)
        if sign:
            codes[count] = sign * (i + 1)
            count += 1
    return count, bad


def encode_difference(
    residual: NDArray[np.float32],
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    tau: float,
    codes: NDArray[np.int32],
) -> tuple[int, int]:
    """Encode ``before - after``: see `hvdspark_kernels.threshold.cpu.encode_difference`."""
    return encode(residual, before - after, tau, codes)


def first_outside(values: NDArray[np.float32], limit: float) -> int:
    """Return the first index where ``|value| < limit`` fails, or -1."""
    return next((i for i in range(values.size) if outside(values[i], np.float32(limit))), -1)


def first_outside_difference(before: NDArray[np.float32], after: NDArray[np.float32], limit: float) -> int:
    """Return the first index where ``|before - after| < limit`` fails, or -1."""
    return first_outside(before - after, limit)


def first_bad_code(codes: NDArray[np.int32], n: int) -> int:
    """Return the first place where the codes are no message over `n` elements, or -1."""
    last = 0
    for place, code in enumerate(codes.tolist()):
        if not last < abs(code) <= n:
            return place
        last = abs(code)
    return -1


def add_codes(codes: NDArray[np.int32], value: float, out: NDArray[np.float32]) -> None:
    """Add ``value * sign`` to ``out[|code| - 1]`` for every code."""
    step = np.float32(value)
    for code in codes.tolist():
        if 1 <= abs(code) <= out.size:
            out[abs(code) - 1] += step if code > 0 else -step
