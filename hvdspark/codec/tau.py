"""What number a threshold may be on the wire: a bfloat16 number, so that subtracting it is exact far more often.

With a float32 threshold ``v - tau`` is rounded on most elements above ``2 tau``; with eight significant bits it was
exact in every one of 41 million codes of real runs.
"""

import math
import struct

import numpy as np
from numpy.typing import NDArray

__all__ = ["MAX_TAU", "MIN_TAU", "are_taus", "is_tau", "is_zero", "round_tau"]

_FLOAT = struct.Struct("<f")
_LOW_BITS = np.uint32(0xFFFF)  # the half of a float32 that a bfloat16 number does not have

MAX_TAU = float(np.uint32(0x7F7F0000).view(np.float32))
"""The largest finite bfloat16 number."""

MIN_TAU = float((np.float32(1e-12).view(np.uint32) + _LOW_BITS & ~_LOW_BITS).view(np.float32))
"""The smallest threshold in use: 1e-12 rounded up. Far below it a threshold would be a denormal number."""


_LEAST = np.float32(MIN_TAU).view(np.uint32)
_SPAN = np.float32(MAX_TAU).view(np.uint32) - _LEAST


def round_tau(threshold: float) -> float:
    """Round a threshold down to a bfloat16 number, but not below `MIN_TAU`.

    Down, so that an element whose magnitude equals the threshold asked for is sent.

    Parameters
    ----------
    threshold
        Above zero and finite, in units of the update.
    """
    bits: bytes = _FLOAT.pack(min(threshold, MAX_TAU))  # little-endian: the half that a bfloat16 number has comes last
    rounded: float = _FLOAT.unpack(b"\0\0" + bits[2:])[0]
    return max(rounded, MIN_TAU)


def are_taus(values: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Tell which of ``values`` (``[n] float32``) are thresholds that `round_tau` can give."""
    bits = values.view(np.uint32)  # as numbers they rise as the floats do, and negative ones and NaN lie above
    found: NDArray[np.bool_] = (bits & _LOW_BITS == 0) & (bits - _LEAST <= _SPAN)
    return found


def is_tau(value: float) -> bool:
    """Tell of one number what `are_taus` tells of many: faster by ten for it."""
    return MIN_TAU <= value <= MAX_TAU and (256 * math.frexp(value)[0]).is_integer()


def is_zero(value: float) -> bool:
    """Tell whether this is zero, and not the negative one."""
    return value == 0 and math.copysign(1, value) > 0
