"""A rank that can make no message sends why in its place, so that no rank waits for it and all raise."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hvdspark.errors import RankLost

__all__ = ["deliver", "failure_message"]

_MARK = b"HVDSFAIL"


def failure_message(failure: Exception) -> NDArray[np.uint8]:
    """Return `[m] uint8`: what the other ranks are told, for `deliver` to raise."""
    text = f"{type(failure).__name__}: {failure}"[:1000]
    return np.frombuffer(_MARK + text.encode(), np.uint8)


def deliver(
    send: Callable[[], list[NDArray[np.uint8]]], failure: Exception | None, senders: Sequence[int], step: int
) -> list[NDArray[np.uint8]]:
    """Send, and make sure that all that came are messages; if any rank has failed, all raise.

    Parameters
    ----------
    send : callable
        Sends this rank's message, or its `failure_message`, and returns what came, one a sender: `[m] uint8`.
    failure : Exception, optional
        Why this rank has no message; raised once the others know.
    senders : sequence of int
        Who sends.
    step : int
        For errors.

    Raises
    ------
    RankLost
        Naming the rank that failed, and what it says.
    """
    try:
        messages = send()
    except RankLost as error:
        if failure is not None:  # a rank that heard of it was gone before this one got back
            raise failure from error
        raise
    if failure is not None:
        raise failure
    for rank, message in zip(senders, messages, strict=True):
        if message.data[: len(_MARK)] == _MARK:
            why = message[len(_MARK) :].tobytes().decode(errors="replace")
            raise RankLost(f"rank {rank} could not send its part of step {step}, so no rank took it: {why}")
    return messages
