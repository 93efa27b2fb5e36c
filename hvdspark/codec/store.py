"""The residual and every pass over it, for one kind of device: what an encoder is built on."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["AddCodes", "AddDense", "Store", "Update"]


AddCodes = Callable[
    [NDArray[np.int32], NDArray[np.uint8] | None, NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]], None
]
"""Called with codes, multiples, ends and values of runs, as `add_codes`, and with where each message's codes start."""

AddDense = Callable[[NDArray[np.uint8], float], None]


@dataclass(frozen=True)
class Update:
    """The update of one encode, ``[n] float32``, read only: an array, or the difference ``first - second`` of two.

    Without either it has been added to the residual already.
    """

    first: Any | None = None
    second: Any | None = None


class Store(ABC):
    """The residual of one rank, ``[n] float32``, beside the updates that come to it.

    Laws: bytes and bits are those of `hvdspark_kernels.threshold.reference`, on every device; what is handed out as
    NumPy arrays lies in the memory of the host.
    """

    residual: Any
    """The array itself, on its device."""

    @abstractmethod
    def check(self, array: Any, name: str) -> None:
        """Refuse anything but a contiguous ``[n] float32`` array of this device that is not the residual.

        Raises
        ------
        UnsupportedError
            For another type, dtype, device or memory order.
        ConfigurationError
            For another shape, or the residual's own memory.
        """

    @abstractmethod
    def encode(
        self, update: Update, ends: NDArray[np.int64], taus: NDArray[np.float32], steps: NDArray[np.float32]
    ) -> tuple[NDArray[np.int32], list[int], int]:
        """Add the update to the residual and take codes out: see `hvdspark_kernels.threshold.cpu.encode`.

        Returns
        -------
        (codes, counts, bad)
            ``[count] int32``, valid until the next encode; how many are of each group; -1, or the first element that
            is not finite: then nothing was encoded.
        """

    @abstractmethod
    def take_all(self, update: Update, values: NDArray[np.float32]) -> int:
        """Move ``residual + update`` to `values` and leave zeros, if all of it is finite.

        Returns
        -------
        int
            -1, or the first element that is not finite: then the residual is as it was.
        """

    @abstractmethod
    def kept(self, where: Any) -> NDArray[np.float32]:
        """Return the elements of the residual that a slice or an index array names."""

    @abstractmethod
    def updates(self, update: Update, where: Any) -> NDArray[np.float32]:
        """Return the elements of the update that a slice or an index array names."""

    @abstractmethod
    def totals(self, update: Update, where: Any) -> NDArray[np.float32]:
        """Return the elements of ``residual + update`` that a slice or an index array names."""

    @abstractmethod
    def add_codes(
        self,
        codes: NDArray[np.int32],
        ends: NDArray[np.int64],
        values: NDArray[np.float32],
        multiples: NDArray[np.uint8] | None = None,
    ) -> None:
        """Add codes to the residual: see `hvdspark_kernels.threshold.codes.add_codes`."""

    @abstractmethod
    def take_multiples(
        self, codes: NDArray[np.int32], ends: NDArray[np.int64], taus: NDArray[np.float32]
    ) -> NDArray[np.uint8]:
        """Take multiples of the thresholds off coded elements: see `hvdspark_kernels.multiples.cpu.take`.

        Returns
        -------
        ``[count] uint8``
            What was taken off each, in units of the threshold.
        """

    @abstractmethod
    def sum_coded(self, codes: NDArray[np.int32]) -> float:
        """Return the sum of magnitudes of coded elements: see `hvdspark_kernels.threshold.codes.sum_coded`."""

    @abstractmethod
    def copy(self) -> NDArray[np.float32]:
        """Return a copy of the residual."""

    @abstractmethod
    def load(self, residual: NDArray[np.float32]) -> None:
        """Overwrite the residual."""
