"""The null codec: everything is sent, as float32, by allreduce. The oracle that the codec is tested against."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from hvdspark.collectives import Collective
from hvdspark.errors import ConfigurationError, NonFiniteError
from hvdspark.sync.base import Exchange, Vector
from hvdspark.sync.hosts import Hosts
from hvdspark.sync.part import Part
from hvdspark.sync.phases import Phases

__all__ = ["DenseExchange"]


class DenseExchange(Exchange):
    """Sums whole vectors; keeps nothing back.

    The differences from the agreed weights are summed, not the weights: averaging N equal weights as
    ``sum(w) * (1 / N)`` changes their bits where N is no power of two.

    Parameters
    ----------
    collective : Collective
        The ranks.
    n : int
        Length of the vectors.
    phases : Phases
        Where the time is counted.
    hosts : Hosts, optional
        By which way: the ranks of a host first. None: all at once.
    """

    residual = None
    sent = None
    device = torch.device("cpu")  # it goes through the memory of the host

    def __init__(self, collective: Collective, n: int, phases: Phases, hosts: Hosts | None = None) -> None:
        self._ranks = hosts or collective
        self._phases = phases
        self._difference = np.empty(n, np.float32)

    def add_total(self, vector: Vector, out: Vector, scale: float, *, part: Part) -> None:
        """Add ``scale * sum_r vector_r`` to `out`; `vector` is overwritten."""
        del part  # nothing is sent beside the numbers themselves
        with self._phases.timed("exchange"):
            self._ranks.allreduce_(vector)
        with self._phases.timed("apply"):
            _refuse_non_finite(vector)
            if scale != 1.0:
                vector *= np.float32(scale)
            out += vector

    def add_difference(self, before: Vector, after: Vector, out: Vector, scale: float, *, part: Part) -> None:
        """Do ``out += scale * sum_r (before - after_r)``."""
        with self._phases.timed("encode"):
            np.subtract(before, after, out=self._difference)
        self.add_total(self._difference, out, scale, part=part)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: a dense exchange keeps nothing back."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        if state:
            raise ConfigurationError(f"a dense exchange has no state, this has {sorted(state)}: is it of a coded one?")

    def measures(self) -> dict[str, float]:
        """Return a density of one: everything is sent."""
        return {"density": 1.0, "threshold": 0.0, "clipped_mass": 0.0}


def _refuse_non_finite(total: Vector) -> None:
    # All ranks hold the same sum, so all raise. A float64 sum of finite float32 numbers cannot overflow.
    with np.errstate(invalid="ignore"):
        checksum = float(total.sum(dtype=np.float64))
    if math.isfinite(checksum):
        return
    i = int(np.argmin(np.isfinite(total)))
    raise NonFiniteError(
        f"the sum over all ranks is {total[i]} at element {i} of {total.size}; no rank took the step. Lower the "
        "learning rate, clip the gradients, or look for NaN in the data"
    )
