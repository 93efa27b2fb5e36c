"""The gaps of a list of codes, and the bits that they take, for compiled code."""

from typing import Any

import numpy as np

from hvdspark_kernels.jit import jit
from hvdspark_kernels.rice.scalar import ESCAPE, RAW_BITS

__all__ = ["LONGEST", "ONE", "gap_at", "short_bits"]

LONGEST = ESCAPE + RAW_BITS + 2
"""Bits of the longest code."""

ONE = np.uint64(1)


@jit
def gap_at(codes: Any, place: Any) -> Any:
    """Return the gap in front of code number `place`."""
    before = abs(np.int64(codes[place - 1])) if place else np.int64(0)
    return abs(np.int64(codes[place])) - before - 1


@jit
def short_bits(gap: Any, parameter: Any) -> Any:
    """Return `scalar.code_bits` in 32 bits: vectors hold twice as many of them."""
    quotient = gap >> parameter
    return quotient + parameter + np.uint32(2) if quotient < np.uint32(ESCAPE) else np.uint32(LONGEST)
