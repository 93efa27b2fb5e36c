"""What a payload format is: how one step's codes or values become bytes, and how bytes are checked and added."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Format"]


class Format(ABC):
    """One way to write a payload. A format holds no state.

    Laws: ``write`` fills exactly ``payload_bytes(n, count)`` bytes; ``check`` accepts what ``write`` wrote, and nothing
    from which ``add`` would write outside `out` or add anything but finite numbers; ``add`` changes nothing but `out`.
    """

    identity: int
    """The number that stands for the format in a header."""

    name: str
    """What users call it: a value of the encoder's ``format``."""

    coded: bool
    """True: elements are sent as signs, worth ``+tau`` or ``-tau`` each; False: as numbers."""

    @abstractmethod
    def payload_bytes(self, n: int, count: int) -> int:
        """Return the exact size of a payload of `count` elements out of `n`."""

    @abstractmethod
    def write(self, content: NDArray[Any], payload: NDArray[np.uint8]) -> None:
        """Write codes (``[count] int32``, rising) or values (``[n] float32``) into a payload of the exact size.

        The content may lie in the payload's own memory already.
        """

    @abstractmethod
    def check(self, payload: NDArray[np.uint8], n: int, count: int) -> str | None:
        """Return what is wrong with a payload of the right size, or None. Reads the payload only."""

    @abstractmethod
    def add(self, payload: NDArray[np.uint8], tau: float, scale: float, out: NDArray[np.float32]) -> None:
        """Add ``scale`` times the checked payload to `out`, ``[n] float32``."""
