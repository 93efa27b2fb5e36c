"""The options and states that an encoder is given, checked."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark.codec.magnitude import MAGNITUDES
from hvdspark.codec.message import DENSE, FORMATS
from hvdspark.codec.residual import ResidualPostProcessor
from hvdspark.codec.threshold import ThresholdAlgorithm, ThresholdState
from hvdspark.errors import ConfigurationError, UnsupportedError

__all__ = ["check_options", "check_parts", "check_state", "checked_ends"]

_MAX_N = 2**31 - 1  # a code is a signed 32-bit index, counted from one


def check_options(n: int, form: str, magnitude: str, num_threads: int | None, ends: object) -> None:
    """Refuse plain options out of range, or which cannot act together."""
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= _MAX_N:
        raise ConfigurationError(f"n must be a whole number in 1..{_MAX_N}, not {n!r}: cut larger updates into parts")
    formats = ("auto", *FORMATS, DENSE.name)
    if form not in formats:
        raise ConfigurationError(f"format must be one of {', '.join(map(repr, formats))}, not {form!r}")
    if magnitude not in MAGNITUDES:
        raise ConfigurationError(f"magnitude must be one of {', '.join(map(repr, MAGNITUDES))}, not {magnitude!r}")
    if form == DENSE.name and (magnitude != "threshold" or ends is not None):
        raise ConfigurationError("magnitude and group_ends cannot act with format='dense', where nothing is coded")
    if num_threads is not None and (not isinstance(num_threads, int) or num_threads < 1):
        raise ConfigurationError(f"num_threads must be a whole number of at least 1, not {num_threads!r}")


def check_parts(algorithm: ThresholdAlgorithm | None, processor: ResidualPostProcessor | None, form: str) -> None:
    """Refuse objects of another kind."""
    if algorithm is None and form != "dense":
        raise ConfigurationError(f"format={form!r} needs a threshold_algorithm, e.g. AdaptiveThresholdAlgorithm()")
    for name, part, kind in (
        ("threshold_algorithm", algorithm, ThresholdAlgorithm),
        ("residual_post_processor", processor, ResidualPostProcessor),
    ):
        if part is not None and not isinstance(part, kind):
            raise UnsupportedError(f"{name} must be a {kind.__name__}, not a {type(part).__name__}")


def checked_ends(ends: Sequence[int], n: int) -> list[int]:
    """Refuse groups that do not follow each other up to `n`."""
    given = list(ends)
    if not all(isinstance(end, int | np.integer) for end in given):
        raise ConfigurationError(f"group_ends must be whole numbers, not {given}")
    if not given or given[-1] != n or given[0] < 0 or sorted(given) != given:
        raise ConfigurationError(f"group_ends must rise to n = {n}, not {given}")
    return given


def check_state(state: ThresholdState, clipped_mass: Any, residual: NDArray[np.float32]) -> None:
    """Refuse a state that no encoder can have had."""
    ok = (
        isinstance(state.iteration, int)
        and state.iteration >= 0
        and (state.threshold is None or (math.isfinite(state.threshold) and state.threshold > 0))
        and (state.density is None or 0.0 <= state.density <= 1.0)
        and isinstance(clipped_mass, float)
        and clipped_mass >= 0.0
        and bool(np.isfinite(residual).all())
    )
    if not ok:
        raise ConfigurationError(
            f"the state is damaged: {state}, clipped_mass {clipped_mass}, or a residual that is not finite"
        )
