"""``encode="gradients"``: ranks join their gradients, and each optimizer takes the same step with what they came to."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from hvdspark.sync.base import Exchange
from hvdspark.sync.flat import FlatParameters, as_array
from hvdspark.sync.part import Part
from hvdspark.sync.phases import Phases

__all__ = ["JoinedGradients"]


class JoinedGradients:
    """Puts what all ranks' gradients came to in place of this rank's.

    Parameters
    ----------
    flat : FlatParameters
        Whose gradients these are.
    exchange : Exchange
        By which way.
    scale : float
        Applied to each rank's part.
    phases : Phases
        Where the time is counted.
    """

    def __init__(self, flat: FlatParameters, exchange: Exchange, scale: float, phases: Phases) -> None:
        self._flat = flat
        self._exchange = exchange
        self._scale = scale
        self._phases = phases
        self._own = torch.empty_like(flat.weights)
        self._joined = torch.empty(flat.n, dtype=torch.float32, device=exchange.device)

    def join(self, part: Part, active: NDArray[np.bool_]) -> None:
        """Exchange the gradients; what has one on any rank is marked as active (`[parameters] bool`), in place."""
        with self._phases.timed("update"):
            self._flat.gather_gradients(self._own)
            joined = self._joined.zero_()  # not before: the last step left the gradients as views of it
        own = self._own.to(joined.device)
        self._exchange.add_total(as_array(own), as_array(joined), self._scale, part=part)
        with self._phases.timed("update"):
            self._flat.note_active(joined, active)
            self._flat.scatter_gradients(joined.to(self._own.device), active)
