"""Where an update comes from: an array, or the difference of two, computed inside the pass that encodes it."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark.errors import ConfigurationError, UnsupportedError

__all__ = ["Difference", "Source", "Update", "check_array"]


def check_array(array: Any, name: str, n: int) -> None:
    """Refuse anything but a contiguous ``[n] float32`` NumPy array.

    Raises
    ------
    UnsupportedError
        For another type, dtype or memory order.
    ConfigurationError
        For another shape.
    """
    if not isinstance(array, np.ndarray):
        raise UnsupportedError(
            f"{name} must be a NumPy array, not a {type(array).__name__} (a CPU tensor has .numpy())"
        )
    if array.dtype != np.float32:
        raise UnsupportedError(f"{name} must be float32, not {array.dtype}: convert it with .astype(numpy.float32)")
    if array.shape != (n,):
        raise ConfigurationError(f"{name} must have the shape [{n}], not {list(array.shape)}: flatten it first")
    if not array.flags.c_contiguous:
        raise UnsupportedError(f"{name} must be contiguous: copy it with numpy.ascontiguousarray")


class Source(ABC):
    """The update of one encode, ``[n] float32``, read only."""

    @property
    @abstractmethod
    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """The arrays behind it, by the names that users know them by."""

    @abstractmethod
    def take(self, where: Any) -> NDArray[np.float32]:
        """Return the elements that a slice or an index array names; the caller must not write to them."""

    @abstractmethod
    def first_outside(self, limit: float, num_threads: int | None) -> int:
        """Return the first index where ``|u| < limit`` fails (it does for NaN), or -1."""

    @abstractmethod
    def encode(
        self, residual: NDArray[np.float32], tau: float, codes: NDArray[np.int32], num_threads: int | None
    ) -> tuple[int, int]:
        """Run the fused kernel; return the number of codes, and the first index that is not finite or -1."""

    @abstractmethod
    def add_to(self, residual: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Write ``residual + u`` to `out`, which may be the residual."""


class Update(Source):
    """An update that lies in one array."""

    def __init__(self, update: NDArray[np.float32]) -> None:
        self._update = update

    @property
    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """The array."""
        return {"update": self._update}

    def take(self, where: Any) -> NDArray[np.float32]:
        """Return elements of the array."""
        part: NDArray[np.float32] = self._update[where]
        return part

    def first_outside(self, limit: float, num_threads: int | None) -> int:
        """Search the array."""
        from hvdspark_kernels.threshold import cpu

        return cpu.first_outside(self._update, limit, num_threads)

    def encode(
        self, residual: NDArray[np.float32], tau: float, codes: NDArray[np.int32], num_threads: int | None
    ) -> tuple[int, int]:
        """Encode the array."""
        from hvdspark_kernels.threshold import cpu

        return cpu.encode(residual, self._update, tau, codes, num_threads)

    def add_to(self, residual: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Add the array."""
        np.add(residual, self._update, out=out)


class Difference(Source):
    """An update that is ``before - after``."""

    def __init__(self, before: NDArray[np.float32], after: NDArray[np.float32]) -> None:
        self._before = before
        self._after = after

    @property
    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Both arrays."""
        return {"before": self._before, "after": self._after}

    def take(self, where: Any) -> NDArray[np.float32]:
        """Return differences."""
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused by its index, not warned of
            part: NDArray[np.float32] = self._before[where] - self._after[where]
        return part

    def first_outside(self, limit: float, num_threads: int | None) -> int:
        """Search the difference."""
        from hvdspark_kernels.threshold import cpu

        return cpu.first_outside_difference(self._before, self._after, limit, num_threads)

    def encode(
        self, residual: NDArray[np.float32], tau: float, codes: NDArray[np.int32], num_threads: int | None
    ) -> tuple[int, int]:
        """Encode the difference."""
        from hvdspark_kernels.threshold import cpu

        return cpu.encode_difference(residual, self._before, self._after, tau, codes, num_threads)

    def add_to(self, residual: NDArray[np.float32], out: NDArray[np.float32]) -> None:
        """Add the difference, in pieces that need no large scratch."""
        for begin in range(0, residual.size, _CHUNK):
            part = slice(begin, begin + _CHUNK)
            np.add(residual[part], self.take(part), out=out[part])


_CHUNK = 1 << 15  # elements; 128 KiB of scratch stay in the cache
