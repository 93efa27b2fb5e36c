"""The null codec: everything is sent, as float32, by allreduce. The oracle that the codec is tested against."""

from __future__ import annotations

from typing import Any

import numpy as np

from hvdspark.collectives import Collective
from hvdspark.sync.base import Exchange, Vector
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
    """

    residual = None

    def __init__(self, collective: Collective, n: int, phases: Phases) -> None:
        self._collective = collective
        self._phases = phases
        self.bytes_sent = 0
        self._difference = np.empty(n, np.float32)

    def add_total(self, vector: Vector, out: Vector, scale: float, *, examples: int) -> None:
        """Add ``scale * sum_r vector_r`` to `out`; `vector` is overwritten."""
        del examples  # nothing is sent beside the numbers themselves
        with self._phases.timed("exchange"):
            before = self._collective.sent_bytes
            self._collective.allreduce_(vector)
            self.bytes_sent += self._collective.sent_bytes - before
        with self._phases.timed("apply"):
            if scale != 1.0:
                vector *= np.float32(scale)
            out += vector

    def subtract_difference(self, agreed: Vector, local: Vector, scale: float, *, examples: int) -> None:
        """Do ``agreed -= scale * sum_r (agreed - local_r)``."""
        with self._phases.timed("encode"):
            np.subtract(agreed, local, out=self._difference)
            np.negative(self._difference, out=self._difference)
        self.add_total(self._difference, agreed, scale, examples=examples)

    def state_dict(self) -> dict[str, Any]:
        """Return the count of bytes; a dense exchange keeps nothing back."""
        return {"bytes_sent": self.bytes_sent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self.bytes_sent = int(state["bytes_sent"])

    def measures(self) -> dict[str, float]:
        """Return a density of one: everything is sent."""
        return {"density": 1.0, "threshold": 0.0, "clipped_mass": 0.0}
