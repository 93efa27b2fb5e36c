"""Which device does what: where the residual lives, and what messages are added to."""

from typing import Any

import numpy as np

from hvdspark.codec import cuda, host
from hvdspark.codec.store import AddCodes, AddDense, Store
from hvdspark.errors import ConfigurationError, UnsupportedError

__all__ = ["open_store", "target"]


def open_store(n: int, device: str, num_threads: int | None) -> Store:
    """Make the store for a device: ``"cpu"``, or ``"cuda"`` with or without a number.

    Raises
    ------
    ConfigurationError
        For another device.
    UnsupportedError
        If there is no such device here, or what drives it is not installed.
    """
    kind, _, number = device.partition(":")
    if kind == "cpu" and not number:
        return host.HostStore(n, num_threads)
    if kind == "cuda" and (not number or number.isdigit()):
        return cuda.CudaStore(n, int(number or 0))
    raise ConfigurationError(f"device must be 'cpu', 'cuda' or 'cuda:0', not {device!r}")


def target(out: Any, num_threads: int | None) -> tuple[AddCodes, AddDense, int]:
    """Return how codes and dense values are added to an array of any device, and its length.

    Raises
    ------
    UnsupportedError, ConfigurationError
        If it is no writable, contiguous, one-dimensional float32 array.
    """
    if isinstance(out, np.ndarray):
        return host.target(out, num_threads)
    if cuda.is_device_array(out):
        return cuda.target(out)
    raise UnsupportedError(f"out must be an array of NumPy or of a CUDA device, not a {type(out).__name__}")
