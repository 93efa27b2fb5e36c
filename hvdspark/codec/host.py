"""The residual in the memory of the host, and the passes over it on CPU cores."""

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark.codec.dense import DenseFormat
from hvdspark.codec.store import AddCodes, AddDense, Store, Update
from hvdspark.errors import ConfigurationError, UnsupportedError

__all__ = ["HostStore", "check_array", "target"]

_CHUNK = 1 << 15  # elements; 128 KiB of scratch stay in the cache
_FLOAT = np.dtype(np.float32)


@functools.cache
def _kernels() -> Any:
    """Load the kernels, and with them Numba, when they are first used; an import in each call would cost as much."""
    from hvdspark_kernels.threshold import cpu

    return cpu


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
    if array.dtype != _FLOAT:
        raise UnsupportedError(f"{name} must be float32, not {array.dtype}: convert it with .astype(numpy.float32)")
    if array.shape != (n,):
        raise ConfigurationError(f"{name} must have the shape [{n}], not {list(array.shape)}: flatten it first")
    if not array.flags.c_contiguous:
        raise UnsupportedError(f"{name} must be contiguous: copy it with numpy.ascontiguousarray")


def target(out: NDArray[np.float32], num_threads: int | None) -> tuple[AddCodes, AddDense, int]:
    """Return how codes and dense values are added to a NumPy array, and its length."""
    add_codes = _kernels().add_codes
    check_array(out, "out", out.size)
    if not out.flags.writeable:
        raise UnsupportedError("out must be writable")
    return (
        lambda codes, multiples, ends, values, _: add_codes(codes, ends, values, out, num_threads, multiples),
        lambda body, scale: DenseFormat().add(body, scale, out),
        out.size,
    )


def _difference(update: Update, where: Any) -> NDArray[np.float32]:
    first: NDArray[np.float32] = update.first[where]  # type: ignore[index]  # there is one
    return first if update.second is None else first - update.second[where]


class HostStore(Store):
    """The residual as a NumPy array."""

    def __init__(self, n: int, num_threads: int | None) -> None:
        self.residual: NDArray[np.float32] = np.zeros(n, np.float32)
        self._num_threads = num_threads
        # Room for every element. Only what is written becomes memory.
        self._codes: NDArray[np.int32] = np.empty(n, np.int32)

    def check(self, array: Any, name: str) -> None:
        """Check type, dtype, shape, order, and that it is not the residual."""
        check_array(array, name, self.residual.size)
        if np.may_share_memory(array, self.residual):
            raise ConfigurationError(f"{name} lies in the memory of the encoder's residual: give it a copy")

    def encode(
        self, update: Update, ends: NDArray[np.int64], taus: NDArray[np.float32], steps: NDArray[np.float32]
    ) -> tuple[NDArray[np.int32], list[int], int]:
        """Run the fused kernel."""
        cpu, counts = _kernels(), np.empty(ends.size, np.int64)
        groups = (ends, taus, steps, self._codes, counts, self._num_threads)
        if update.first is None:
            count, bad = cpu.encode_accumulated(self.residual, *groups)
        elif update.second is None:
            count, bad = cpu.encode(self.residual, update.first, *groups)
        else:
            count, bad = cpu.encode_difference(self.residual, update.first, update.second, *groups)
        return self._codes[:count], counts.tolist(), bad

    def take_all(self, update: Update, values: NDArray[np.float32]) -> int:
        """Add in chunks; only then overwrite the residual."""
        for begin in range(0, values.size, _CHUNK):
            part = slice(begin, begin + _CHUNK)
            values[part] = self.totals(update, part)
            finite = np.isfinite(values[part])
            if not finite.all():
                return begin + int(np.argmin(finite))
        self.residual.fill(0.0)
        return -1

    def kept(self, where: Any) -> NDArray[np.float32]:
        """Take."""
        part: NDArray[np.float32] = self.residual[where]
        return part

    def updates(self, update: Update, where: Any) -> NDArray[np.float32]:
        """Take or subtract."""
        if update.first is None:
            return np.zeros_like(self.residual[where])
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused by its place, not warned of
            return _difference(update, where)

    def totals(self, update: Update, where: Any) -> NDArray[np.float32]:
        """Take and add."""
        if update.first is None:
            return self.kept(where)
        with np.errstate(invalid="ignore", over="ignore"):
            total: NDArray[np.float32] = self.residual[where] + _difference(update, where)
        return total

    def add_codes(
        self,
        codes: NDArray[np.int32],
        ends: NDArray[np.int64],
        values: NDArray[np.float32],
        multiples: NDArray[np.uint8] | None = None,
    ) -> None:
        """Run the kernel."""
        _kernels().add_codes(codes, ends, values, self.residual, self._num_threads, multiples)

    def take_multiples(
        self, codes: NDArray[np.int32], ends: NDArray[np.int64], taus: NDArray[np.float32]
    ) -> NDArray[np.uint8]:
        """Run the kernel."""
        from hvdspark_kernels.multiples.cpu import take

        multiples = np.empty(codes.size, np.uint8)
        take(codes, ends, taus, self.residual, multiples, self._num_threads)
        return multiples

    def sum_coded(self, codes: NDArray[np.int32]) -> float:
        """Run the kernel."""
        total: float = _kernels().sum_coded(codes, self.residual)
        return total

    def copy(self) -> NDArray[np.float32]:
        """Copy the array."""
        return self.residual.copy()

    def load(self, residual: NDArray[np.float32]) -> None:
        """Copy into the array."""
        self.residual[:] = residual
