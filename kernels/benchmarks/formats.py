"""Formats: bits a code against what entropy asks for, and how fast codes are written and read."""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from pairs import interleave

from hvdspark.codec.message import FORMATS, HEADER_BYTES

__all__ = ["Row", "measure"]


@dataclass(frozen=True)
class Row:
    """One format at one density: bits a code (header included), the bound, and codes a second one way and the other."""

    name: str
    codes: int
    bits: float
    bound: float
    plan_rate: float
    write_rate: float
    read_rate: float


def measure(count: int, density: float, rounds: int) -> list[Row]:
    """Write and read codes at indices drawn independently, on one thread."""
    rng = np.random.default_rng(1)
    magnitudes = np.cumsum(rng.geometric(density, min(count, round(0.95 * 2**31 * density))))
    n = int(magnitudes[-1])
    codes = (magnitudes * rng.choice([-1, 1], magnitudes.size)).astype(np.int32)
    bound = _entropy(codes.size / n) * n / codes.size + 1
    rows = []
    for form in FORMATS.values():
        plan = form.plan(codes, n)
        payload, room = np.empty(plan.payload_bytes, np.uint8), np.empty_like(codes)
        contestants: dict[str, Callable[[], object]] = {
            "plan": functools.partial(form.plan, codes, n),
            "write": functools.partial(form.write, codes, n, plan, payload, 1),
            "read": functools.partial(form.read, payload, n, plan, room, 1),
        }
        taken = interleave(contestants, rounds)
        assert np.array_equal(room, codes)
        rates = {name: codes.size / outcome.seconds for name, outcome in taken.items()}
        bits = 8 * (HEADER_BYTES + plan.payload_bytes) / codes.size
        rows.append(Row(form.name, codes.size, bits, bound, rates["plan"], rates["write"], rates["read"]))
    return rows


def _entropy(p: float) -> float:
    return -p * math.log2(p) - (1 - p) * math.log2(1 - p)
