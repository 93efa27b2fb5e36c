"""Which parameters are trained: those that have had a gradient on some rank."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hvdspark.collectives import Collective
from hvdspark.sync.flat import FlatParameters
from hvdspark.sync.phases import Phases

__all__ = ["ActiveParameters"]


class ActiveParameters:
    """Flags, equal on all ranks: layers that nobody uses are left alone, as any optimizer leaves them.

    Parameters
    ----------
    collective : Collective
        The ranks.
    flat : FlatParameters
        The weights.
    phases : Phases
        Where the time is counted.
    asks_on : bool
        Whether ranks ask each other at every step until all parameters are used; else at the first one only.

    Attributes
    ----------
    flags : ndarray or None
        `[parameters] bool`; None before the first step.
    """

    def __init__(self, collective: Collective, flat: FlatParameters, phases: Phases, *, asks_on: bool) -> None:
        self._collective = collective
        self._flat = flat
        self._phases = phases
        self._asks_on = asks_on
        self.flags: NDArray[np.bool_] | None = None

    def agree(self) -> NDArray[np.bool_]:
        """Return the flags, this step's gradients included; all ranks call it."""
        if self.flags is None or (self._asks_on and not self.flags.all()):
            counts = self._flat.with_gradient().astype(np.int32)
            with self._phases.timed("exchange"):
                self._collective.allreduce_(counts)
            used = counts > 0
            self.flags = used if self.flags is None else self.flags | used
        return self.flags
