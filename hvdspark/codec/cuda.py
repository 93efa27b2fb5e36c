"""The residual in the memory of an NVIDIA GPU, and the passes over it there: only codes and numbers cross the bus."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark.codec.dense import DenseFormat
from hvdspark.codec.store import AddCodes, AddDense, Store, Update
from hvdspark.errors import ConfigurationError, UnsupportedError

__all__ = ["CudaStore", "is_device_array", "target", "why_not"]


def is_device_array(array: Any) -> bool:
    """Tell whether an array lies on a GPU (of torch, CuPy, Numba), or plays one in Numba's simulator."""
    return hasattr(array, "__cuda_array_interface__") or type(array).__name__ == "FakeCUDAArray"


def target(out: Any) -> tuple[AddCodes, AddDense, int]:
    """Return how codes and dense values are added to a device array, and its length."""
    from numba import cuda

    from hvdspark_kernels.threshold.cuda import add_codes

    size = int(np.prod(out.shape))
    view = _checked(out, "out", size)

    def add(
        codes: NDArray[np.int32],
        multiples: NDArray[np.uint8] | None,
        ends: NDArray[np.int64],
        values: NDArray[np.float32],
        starts: NDArray[np.int64],
    ) -> None:
        add_codes(cuda.to_device(codes), ends, values, view, starts, multiples=multiples)

    def add_dense(body: NDArray[np.uint8], scale: float) -> None:
        # Dense messages are for comparisons, and their bytes cross the bus anyway: the sum may as well be made here.
        host = view.copy_to_host()
        DenseFormat().add(body, scale, host)
        view.copy_to_device(host)

    return add, add_dense, size


class CudaStore(Store):
    """The residual as a Numba device array, which torch and CuPy take without a copy.

    Parameters
    ----------
    n
        Number of elements.
    number
        Which of the GPUs that this process sees.
    """

    def __init__(self, n: int, number: int) -> None:
        cuda = _driver(number)
        self._n = n
        self._pass: Any = None
        self.residual = cuda.to_device(np.zeros(n, np.float32))

    def check(self, array: Any, name: str) -> None:
        """Check type, dtype, shape, order, and that it is not the residual."""
        view = _checked(array, name, self._n)
        if _address(view) == _address(self.residual):
            raise ConfigurationError(f"{name} lies in the memory of the encoder's residual: give it a copy")

    def encode(
        self, update: Update, ends: NDArray[np.int64], taus: NDArray[np.float32], steps: NDArray[np.float32]
    ) -> tuple[NDArray[np.int32], list[int], int]:
        """Launch the pass; read its result, and then just the codes that there are."""
        from hvdspark_kernels.threshold.cuda import EncodePass

        if self._pass is None:
            self._pass = EncodePass(self._n, ends.size)
        arrays = [array for array in (update.first, update.second) if array is not None]
        run, undo = (
            (self._pass.encode_accumulated, self._pass.undo_accumulated),
            (self._pass.encode, self._pass.undo),
            (self._pass.encode_difference, self._pass.undo_difference),
        )[len(arrays)]
        run(self.residual, *arrays, ends, taus, steps)
        count, bad, counts = self._pass.result()
        if bad >= 0:
            undo(self.residual, *arrays)
            return np.empty(0, np.int32), [0] * ends.size, bad
        return self._pass.codes(count), counts.tolist(), -1

    def take_all(self, update: Update, values: NDArray[np.float32]) -> int:
        """Copy everything to the host: a dense message goes there whole."""
        values[:] = self.totals(update, slice(0, self._n))
        finite = np.isfinite(values)
        if not finite.all():
            return int(np.argmin(finite))
        self.residual.copy_to_device(np.zeros(self._n, np.float32))
        return -1

    def kept(self, where: Any) -> NDArray[np.float32]:
        """Copy elements of the residual."""
        return _to_host(self.residual, where)

    def updates(self, update: Update, where: Any) -> NDArray[np.float32]:
        """Copy elements of the update."""
        if update.first is None:
            return np.zeros_like(self.kept(where))
        first = _to_host(update.first, where)
        if update.second is None:
            return first
        with np.errstate(invalid="ignore", over="ignore"):
            difference: NDArray[np.float32] = first - _to_host(update.second, where)
        return difference

    def totals(self, update: Update, where: Any) -> NDArray[np.float32]:
        """Gather single elements on the device; copy whole ranges."""
        from hvdspark_kernels.threshold.cuda import gather_totals

        if update.first is not None and isinstance(where, np.ndarray):
            return gather_totals(self.residual, update.first, update.second, where)
        with np.errstate(invalid="ignore", over="ignore"):
            total: NDArray[np.float32] = self.kept(where) + self.updates(update, where)
        return total

    def add_codes(
        self,
        codes: NDArray[np.int32],
        ends: NDArray[np.int64],
        values: NDArray[np.float32],
        multiples: NDArray[np.uint8] | None = None,
    ) -> None:
        """Run the kernel."""
        from numba import cuda

        from hvdspark_kernels.threshold.cuda import add_codes

        start = np.zeros(1, np.int64)
        add_codes(cuda.to_device(codes), ends, values, self.residual, start, multiples=multiples)

    def take_multiples(
        self, codes: NDArray[np.int32], ends: NDArray[np.int64], taus: NDArray[np.float32]
    ) -> NDArray[np.uint8]:
        """Run the kernel."""
        from numba import cuda

        from hvdspark_kernels.multiples.cuda import take

        return take(cuda.to_device(codes), ends, taus, self.residual)

    def sum_coded(self, codes: NDArray[np.int32]) -> float:
        """Run the kernel."""
        from numba import cuda

        from hvdspark_kernels.threshold.cuda import sum_coded

        return sum_coded(cuda.to_device(codes), 0, codes.size, self.residual)

    def copy(self) -> NDArray[np.float32]:
        """Copy to the host."""
        copied: NDArray[np.float32] = self.residual.copy_to_host()
        return copied

    def load(self, residual: NDArray[np.float32]) -> None:
        """Copy to the device."""
        self.residual.copy_to_device(np.ascontiguousarray(residual))


def why_not(number: int) -> str | None:
    """Return why the GPU of that number cannot be used here; None if it can."""
    if importlib.util.find_spec("numba_cuda") is None:
        return 'a GPU needs numba-cuda: pip install "hvdspark[cuda]"'
    from numba import cuda

    if not cuda.is_available():
        return "Numba finds no NVIDIA GPU with a working driver here"
    if number >= len(cuda.gpus):
        return f"cuda:{number} is not there: this process sees {len(cuda.gpus)} GPUs"
    return None


def _driver(number: int) -> Any:
    """Return ``numba.cuda``, with this thread on the GPU of that number."""
    reason = why_not(number)
    if reason is not None:
        raise UnsupportedError(f'device="cuda:{number}": {reason}')
    from numba import cuda

    cuda.select_device(number)
    return cuda


def _checked(array: Any, name: str, n: int) -> Any:
    """Return a view of a device array, or refuse it as `hvdspark.codec.host.check_array` does."""
    from hvdspark_kernels.device import as_device

    if not is_device_array(array):
        raise UnsupportedError(f"{name} must be an array on the GPU, not a {type(array).__name__}")
    if tuple(array.shape) != (n,):
        raise ConfigurationError(f"{name} must have the shape [{n}], not {list(array.shape)}: flatten it first")
    try:
        return as_device(array, np.float32)
    except ValueError as error:
        raise UnsupportedError(f"{name} must be contiguous float32: {error}") from error


def _address(view: Any) -> int:
    """Return where an array begins."""
    interface = getattr(view, "__cuda_array_interface__", None)
    return int(interface["data"][0]) if interface else int(view._ary.ctypes.data)  # the simulator's own


def _to_host(array: Any, where: Any) -> NDArray[np.float32]:
    from hvdspark_kernels.device import as_device

    view = as_device(array, np.float32)
    if isinstance(where, slice):
        copied: NDArray[np.float32] = view[where].copy_to_host()
        return copied
    chosen: NDArray[np.float32] = view.copy_to_host()[where]
    return chosen
