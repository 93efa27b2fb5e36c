"""What a rank sends in place of its message when it can make none: why, so that no rank waits and all raise."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hvdspark.errors import RankLost

__all__ = ["notice", "raise_notices"]

_MARK = b"HVDSFAIL"


def notice(failure: Exception) -> NDArray[np.uint8]:
    """Return `[m] uint8`: what the other ranks are told."""
    text = f"{type(failure).__name__}: {failure}"[:1000]
    return np.frombuffer(_MARK + text.encode(), np.uint8)


def raise_notices(messages: Sequence[NDArray[np.uint8]], senders: Sequence[int], step: int) -> None:
    """Raise for the first message that is a notice.

    Parameters
    ----------
    messages : sequence of [m] uint8
        As they came, one a sender.
    senders : sequence of int
        Whose they are.
    step : int
        For the error.

    Raises
    ------
    RankLost
        Naming the rank, and what it says.
    """
    for rank, message in zip(senders, messages, strict=True):
        if message[: len(_MARK)].tobytes() == _MARK:
            why = message[len(_MARK) :].tobytes().decode(errors="replace")
            raise RankLost(f"rank {rank} could not send its part of step {step}, so no rank took it: {why}")
