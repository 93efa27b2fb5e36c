"""What a synchroniser exchanges, and the law that every way of exchanging keeps."""

from __future__ import annotations

import abc
import dataclasses
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hvdspark.sync.part import Part

__all__ = ["Exchange", "SyncReport", "compared"]

Vector = NDArray[np.float32]


class Exchange(abc.ABC):
    """Brings the vectors of all ranks together.

    Laws (tests/contracts/exchange.py):

    1. *Agreement*: after a call, `out` holds the same bits on all ranks.
    2. *Conservation*: what a rank put in and is not in `out` now is in `residual`, and comes out later.
    3. *All or nothing*: where a rank's vector is not finite, or it cannot send it, all ranks raise; `out` is
       as before, and a `residual` also holds what was to be sent.

    All ranks call the same methods in the same order.
    """

    #: What this exchange keeps back, `[n] float32`; None where everything goes through at once.
    residual: Vector | None

    #: Where the vectors that it takes live.
    device: torch.device

    #: What this rank last sent, `[count] int32` signed one-based indices, valid until the next call; None: everything.
    sent: NDArray[np.int32] | None

    @abc.abstractmethod
    def add_total(self, vector: Vector, out: Vector, scale: float, *, part: Part) -> None:
        """Add the sum over ranks to `out`: ``out += scale * sum_r vector_r``.

        Parameters
        ----------
        vector : ndarray
            `[n] float32`, this rank's part; it may be overwritten.
        out : ndarray
            `[n] float32`, equal on all ranks; changed in place.
        scale : float
            Applied to each rank's part.
        part : Part
            How many examples this rank's vector stands for; compared among the ranks where they are sent messages.
        """

    @abc.abstractmethod
    def add_difference(self, before: Vector, after: Vector, out: Vector, scale: float, *, part: Part) -> None:
        """Add what all ranks have moved by to `out`: ``out += scale * sum_r (before - after_r)``.

        Parameters
        ----------
        before : ndarray
            `[n] float32`, equal on all ranks: where they set out from.
        after : ndarray
            `[n] float32`, where this rank has come to.
        out : ndarray
            `[n] float32`, equal on all ranks; changed in place. It may be `before` itself.
        scale, part
            As in `add_total`.
        """

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return all state as tensors, arrays and numbers."""

    @abc.abstractmethod
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""

    @abc.abstractmethod
    def measures(self) -> dict[str, float]:
        """Return `density` and `threshold` of the last message and `clipped_mass` so far, where they have a meaning."""


@dataclasses.dataclass(frozen=True)
class SyncReport:
    """What synchronising has cost one rank so far.

    Parameters
    ----------
    steps : int
        Calls of `step`.
    exchanges : int
        How often the ranks have come to agree: as often as they stepped, but for `local_steps` above 1.
    bytes_sent : int
        Bytes of this rank's own messages, padding and the exchange of counts and checksums included.
    local_bytes : int
        Where ranks of a host come together first: what this rank handed to them, beside `bytes_sent`.
    dense_bytes : int
        4 x parameters x steps: what a dense exchange every step would have carried.
    density : float
        Mean share of elements that was sent.
    threshold : float
        The last threshold tau; 0 without a codec.
    clipped_mass : float
        Sum of the magnitudes of the residual that clipping threw away.
    seconds : dict
        Seconds by phase: update, encode, exchange, decode, apply.
    """

    steps: int
    exchanges: int
    bytes_sent: int
    local_bytes: int
    dense_bytes: int
    density: float
    threshold: float
    clipped_mass: float
    seconds: dict[str, float]

    def __str__(self) -> str:
        phases = ", ".join(f"{name} {seconds:.2f}" for name, seconds in self.seconds.items())
        return (
            f"{self.steps} steps, {self.exchanges} exchanges, {self.bytes_sent:,} bytes sent "
            f"({self.dense_bytes:,} dense, {compared(self.bytes_sent, self.dense_bytes)}), "
            f"density {self.density:.2e}, threshold {self.threshold:.2e}; seconds: {phases}"
        )


def compared(bytes_sent: int, dense_bytes: int) -> str:
    """Say how much less than a dense exchange was sent."""
    if not bytes_sent:
        return "a single rank sends nothing"
    if bytes_sent > dense_bytes:
        return f"{bytes_sent / dense_bytes:.1f} x more: headers outweigh so small a model"
    return f"{dense_bytes / bytes_sent:,.{0 if dense_bytes >= 10 * bytes_sent else 1}f} x fewer"
