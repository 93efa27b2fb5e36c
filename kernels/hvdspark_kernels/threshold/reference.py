"""The kernels in slow, obvious NumPy: what the others must equal bit for bit. Same functions, same arguments."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from hvdspark_kernels.threshold.scalar import outside, quantise

__all__ = ["add_codes", "encode", "encode_accumulated", "encode_difference", "first_bad_code", "sum_coded"]


def encode(
    residual: NDArray[np.float32],
    update: NDArray[np.float32],
    ends: NDArray[np.int64],
    taus: NDArray[np.float32],
    steps: NDArray[np.float32],
    codes: NDArray[np.int32],
    counts: NDArray[np.int64],
) -> tuple[int, int]:
    """Accumulate, quantise, compact: see `hvdspark_kernels.threshold.cpu.encode`."""
    with np.errstate(over="ignore", invalid="ignore"):
        totals = residual + update
    count, start = 0, 0
    for i in range(residual.size):
        if outside(totals[i], np.float32(np.inf)):
            return 0, i  # nothing has been changed; the compiled kernels come back to within a rounding of that
    for group, end in enumerate(ends.tolist()):
        before = count
        for i in range(start, end):
            sign, residual[i] = quantise(totals[i], taus[group], steps[group])
            if sign:
                codes[count] = sign * (i + 1)
                count += 1
        counts[group] = count - before
        start = end
    return count, -1


def encode_difference(
    residual: NDArray[np.float32],
    before: NDArray[np.float32],
    after: NDArray[np.float32],
    ends: NDArray[np.int64],
    taus: NDArray[np.float32],
    steps: NDArray[np.float32],
    codes: NDArray[np.int32],
    counts: NDArray[np.int64],
) -> tuple[int, int]:
    """Encode ``before - after``: see `hvdspark_kernels.threshold.cpu.encode_difference`."""
    with np.errstate(over="ignore", invalid="ignore"):
        update = before - after
    return encode(residual, update, ends, taus, steps, codes, counts)


def encode_accumulated(
    residual: NDArray[np.float32],
    ends: NDArray[np.int64],
    taus: NDArray[np.float32],
    steps: NDArray[np.float32],
    codes: NDArray[np.int32],
    counts: NDArray[np.int64],
) -> tuple[int, int]:
    """Encode what stands in the residual: see `hvdspark_kernels.threshold.cpu.encode_accumulated`."""
    return encode(residual, np.full_like(residual, -0.0), ends, taus, steps, codes, counts)  # -0.0 keeps every bit


def sum_coded(codes: NDArray[np.int32], residual: NDArray[np.float32]) -> float:
    """Return the sum of ``|residual[i]|`` over coded elements in float64: of 4,096 codes each, then of those sums."""
    magnitudes = [abs(float(residual[abs(code) - 1])) for code in codes.tolist()]
    return _in_order(_in_order(magnitudes[start : start + 4096]) for start in range(0, len(magnitudes), 4096))


def _in_order(numbers: Iterable[float]) -> float:
    total = 0.0  # not sum(): from Python 3.12 on it compensates for roundings
    for number in numbers:
        total += number
    return total


def first_bad_code(codes: NDArray[np.int32], n: int) -> int:
    """Return the first place where the codes are no message over `n` elements, or -1."""
    last = 0
    for place, code in enumerate(codes.tolist()):
        if not last < abs(code) <= n:
            return place
        last = abs(code)
    return -1


def add_codes(
    codes: NDArray[np.int32],
    ends: NDArray[np.int64],
    values: NDArray[np.float32],
    out: NDArray[np.float32],
    multiples: NDArray[np.uint8] | None = None,
) -> None:
    """Add ``values[run] * sign`` to ``out[|code| - 1]`` for every code; those before ``ends[0]`` are run 0's.

    With multiples: ``values[run, multiple - 1] * sign``.
    """
    run = 0
    for place, code in enumerate(codes.tolist()):
        while place >= ends[run]:
            run += 1
        if 1 <= abs(code) <= out.size:
            value = values[run] if multiples is None else values[run, multiples[place] - 1]
            out[abs(code) - 1] += value if code > 0 else -value
