"""One rank alone: every operation works and nothing is sent."""

import socket
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from hvdspark.collectives.base import Collective
from hvdspark.collectives.intent import Intent

__all__ = ["SoloCollective"]


class SoloCollective(Collective):
    """A collective of size 1.

    Parameters
    ----------
    timeout_s : float, optional
        Checked like everywhere; there is nobody to wait for.
    """

    name: ClassVar[str] = "solo"
    _has_transport: ClassVar[bool] = False

    def __init__(self, *, timeout_s: float | None = None) -> None:
        super().__init__(rank=0, size=1, local_rank=0, local_size=1, host=socket.gethostname(), timeout_s=timeout_s)

    def _meet(self, intent: Intent, message: NDArray[np.uint8]) -> tuple[NDArray[np.int64], list[NDArray[np.uint8]]]:
        return np.array([intent], np.int64), [_copied(message)]

    def _alltoall(self, messages: Sequence[NDArray[np.uint8]], lengths: list[int]) -> list[NDArray[np.uint8]]:  # noqa: ARG002 - the message is at hand
        return [_copied(message) for message in messages]

    def _allreduce(self, array: NDArray[Any]) -> None:
        """Leave the array: it is the sum over one rank."""

    def _broadcast(self, array: NDArray[Any], root: int) -> None:
        """Leave the array: it is the root's."""

    def _part(self, groups: list[list[int]], name: str, *, on_one_host: bool) -> Collective:  # noqa: ARG002 - there is one rank
        return SoloCollective(timeout_s=self.timeout_s)

    def _release(self) -> None:
        """Nothing is held."""

    def _abandon(self, cause: BaseException | None) -> None:
        """Nobody waits."""


def _copied(message: NDArray[np.uint8]) -> NDArray[np.uint8]:
    received = message.copy()
    received.flags.writeable = False
    return received
