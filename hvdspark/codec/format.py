"""What a format of codes is: how a list of signed indices becomes bytes, and how bytes become that list again."""

import sys
from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Format", "Plan", "aligned"]


class Plan(NamedTuple):
    """What writing a list of codes will take: known before a byte is written.

    Attributes
    ----------
    payload_bytes
        The exact size.
    parameter
        What else a reader must know, 0 to 255; 0 where the format has no parameter.
    """

    payload_bytes: int
    parameter: int = 0


class Format(ABC):
    """One way to write codes. A format holds no state.

    A code is a signed one-based index, int32: ``+(i + 1)`` adds to element i, ``-(i + 1)`` subtracts; codes rise
    strictly in magnitude.

    Laws: ``write`` fills exactly the bytes of the plan; ``read`` gives back the codes; bytes that ``write`` would not
    have written are refused, and nothing is read or written out of bounds, whatever the bytes are.
    """

    identity: int
    """The number that stands for the format in a header."""

    name: str
    """What users call it: a value of the encoder's ``format``."""

    @abstractmethod
    def plan(self, codes: NDArray[np.int32], n: int) -> Plan:
        """Return what writing ``codes`` (``[count] int32``, over `n` elements) will take."""

    @abstractmethod
    def write(
        self,
        codes: NDArray[np.int32],
        n: int,
        plan: Plan,
        payload: NDArray[np.uint8],
        num_threads: int | None = None,
    ) -> None:
        """Write the codes into a payload of the plan's size, on so many threads at most (None: a default)."""

    @abstractmethod
    def could_hold(self, plan: Plan, n: int, count: int) -> bool:
        """Tell whether `count` codes over `n` elements can take such a plan: before memory is taken for them."""

    @abstractmethod
    def read(
        self,
        payload: NDArray[np.uint8],
        n: int,
        plan: Plan,
        codes: NDArray[np.int32],
        num_threads: int | None = None,
    ) -> int:
        """Read a payload that `could_hold` as many codes as ``codes`` has room for, and fill them in.

        Returns
        -------
        int
            The number of good codes in front of the first fault; all of them if there is none.
        """


def aligned(payload: NDArray[np.uint8], dtype: Any) -> NDArray[Any]:
    """View a payload as numbers; a copy where it is read-only or lies askew, for which kernels are not compiled."""
    numbers: NDArray[Any] = payload.view(dtype)
    flags = numbers.flags
    if not (flags.writeable and flags.aligned):
        numbers = numbers.copy()
    return numbers if sys.byteorder == "little" else numbers.byteswap()
