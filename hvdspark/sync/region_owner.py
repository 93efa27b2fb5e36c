"""What the owner of a region does: sum what ranks have sent, and send on the most of it that there is room for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PrivateAttr

from hvdspark.codec import (
    Decoded,
    Encoder,
    Quantile,
    Stamp,
    ThresholdAlgorithm,
    ThresholdState,
)
from hvdspark.errors import ConfigurationError
from hvdspark.sync.base import Vector
from hvdspark.sync.flat import as_array

__all__ = ["RegionOwner"]

_DENSER = 4  # times as many codes leave an owner as come to it from a rank: fewer cost loss (docs/benchmarks.md)
_LEAST_DENSITY = 1e-4  # what it may send of its region at any rate: else what it holds would never leave a quiet one
_SPREAD = 16  # a code carries up to eight units: more than so many are halved, at least, in each step


class RegionOwner:
    """Sums messages of all ranks over one region, and makes one message of the sum.

    It sends the largest elements, four times as many as a rank has sent on the mean: most elements of a sum of sparse
    codes hold one code of one rank, so that no threshold could let a part of them through. The rest stays in its
    residual, and grows until it is among the largest. Elements are sent as multiples of the smallest code that has
    come, or of a larger unit where the largest element is so far above that it would take many steps.

    Parameters
    ----------
    n : int
        Elements of the region.
    device : str
        Where they are summed.
    num_threads : int, optional
        Threads of the codec; None: as many as this process may use.
    """

    def __init__(self, n: int, device: str, num_threads: int | None) -> None:
        self._threshold = _Given()
        self._encoder = Encoder(
            n,
            threshold_algorithm=self._threshold,
            magnitude="multiples",
            device=device,
            num_threads=num_threads,
        )
        self._least = 0.0  # the smallest code of the last step in which any came
        self._num_threads = num_threads
        self._sum = torch.zeros(n, device=device)
        self._offered = torch.zeros(n, device=device)

    @property
    def residual(self) -> Vector:
        """What it keeps back, `[n] float32`."""
        kept: Vector = self._encoder.residual
        return kept

    def join(self, received: Decoded, stamp: Stamp) -> NDArray[np.uint8]:
        """Add up what ranks have sent, in rank order, and take a message out of it; if that fails, nothing has changed.

        Parameters
        ----------
        received : Decoded
            One message a rank, each of one group.
        stamp : Stamp
            For the header.

        Returns
        -------
        [m] uint8
            Valid until the next call.
        """
        received.add_to(as_array(self._sum.zero_()), self._num_threads)
        coded = [message for message in received.messages if message.header.count]
        residual = torch.as_tensor(self._encoder.residual)
        total = residual + self._sum
        magnitudes = total.abs()
        least = min((message.groups.magnitudes[0] for message in coded), default=self._least)
        unit = max(least, magnitudes.max().item() / _SPREAD)
        came = sum(message.header.count for message in coded) / len(received.messages)
        held = _surplus(magnitudes, unit, math.ceil(max(_DENSER * came, _LEAST_DENSITY * total.numel())))
        before = residual[held]
        self._offered.copy_(self._sum)
        self._offered[held] = residual[held] = 0
        self._threshold.tell(unit or None)
        try:
            message = self._encoder.encode(as_array(self._offered), stamp)
        except BaseException:
            residual[held] = before
            raise
        residual[held] = total[held]
        self._least = least
        return message

    def undo(self, message: NDArray[np.uint8]) -> None:
        """Take back the last `join`, whose message no rank has applied."""
        self._encoder.put_back(message)
        torch.as_tensor(self._encoder.residual).sub_(self._sum)  # it goes back to the ranks that it came from

    def state_dict(self) -> dict[str, Any]:
        """Return the encoder's state, and the smallest code of the last step in which any came."""
        return {**self._encoder.state_dict(), "least": self._least}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        encoder, least = dict(state), state.get("least")
        if not isinstance(least, float) or not 0 <= least < math.inf:
            raise ConfigurationError(f"the state of an owner is damaged: its smallest code is {least!r}")
        del encoder["least"]
        self._encoder.load_state_dict(encoder)
        self._least = least


def _surplus(magnitudes: torch.Tensor, unit: float, room: int) -> torch.Tensor:
    """Return the elements from `unit` on that there is no room for, `[k] int64`: not the largest ones."""
    found = torch.nonzero(magnitudes >= unit).squeeze(1)
    excess = found.numel() - room
    if excess <= 0:
        return found[:0]
    return found[torch.topk(magnitudes[found], excess, largest=False, sorted=False).indices]


class _Given(ThresholdAlgorithm):
    """The threshold that it was told."""

    _threshold: float | None = PrivateAttr(None)

    def tell(self, threshold: float | None) -> None:
        """Give the threshold of the next encode; None where there is nothing to send."""
        self._threshold = threshold

    def next_threshold(self, state: ThresholdState, quantile: Quantile) -> float | None:  # noqa: ARG002  # it is given
        """Return it."""
        return self._threshold
