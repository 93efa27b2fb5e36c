"""The encode pass on an NVIDIA GPU: one launch, one pass over memory, nothing waits for the host."""

from typing import Any

import numpy as np
from numba import cuda
from numpy.typing import NDArray

from hvdspark_kernels import device
from hvdspark_kernels.threshold import tile
from hvdspark_kernels.threshold.cuda_codes import (
    add_codes,
    add_runs,
    gather_totals,
    sum_coded,
    take_back,
    take_back_difference,
)

__all__ = ["TILES", "EncodePass", "add_codes", "gather_totals", "sum_coded"]

TILES = tile.make_tiles()
_INFINITY = np.float32(np.inf)
_MAX_ELEMENTS = (1 << 31) - 1  # codes are int32


class EncodePass:
    """Encodes updates of one length into one residual, with memory taken once.

    Parameters
    ----------
    n
        Length of the residual.
    groups
        Number of groups of elements; each has a threshold and a step of its own.
    capacity
        Room for so many codes; None for `n`. Elements that reach the threshold when there is no room left keep what
        they have, and are sent another time.
    stream
        A ``cudaStream_t`` that everything is put on; 0 is the default stream, which torch uses unless told.
    tiles
        The kernels; None for those of the size for real cards.

    Attributes
    ----------
    n, groups, capacity
        As above.
    device_codes
        ``[capacity] int32`` on the device: the codes at its front, in rising order of index; then scratch.
    """

    def __init__(
        self,
        n: int,
        groups: int = 1,
        capacity: int | None = None,
        stream: int = 0,
        tiles: tile.Tiles | None = None,
    ) -> None:
        self.n, self.groups, self.capacity = n, groups, n if capacity is None else capacity
        if not 0 <= n <= _MAX_ELEMENTS or groups < 1 or self.capacity < 0:
            raise ValueError(f"elements, groups and room for codes are needed, not {n}, {groups} and {self.capacity}")
        self._queue = device.stream_of(stream)
        self._tiles = TILES if tiles is None else tiles
        self._passes = 0
        self._tickets = self._to_device(np.array([tile.FIRST_TICKET]))
        self._status = self._to_device(np.zeros(device.grid(n, self._tiles.size), np.int64))
        self._result = self._to_device(np.zeros(tile.REACHED + groups, np.int64))
        self._sent: list[NDArray[Any]] = [np.zeros(groups, kind) for kind in (np.int64, np.float32, np.float32)]
        self._ends, self._taus, self._steps = (self._to_device(array) for array in self._sent)
        self.device_codes = cuda.device_array(max(1, self.capacity), np.int32, stream=self._queue)[: self.capacity]

    def encode(
        self,
        residual: Any,
        update: Any,
        ends: NDArray[np.int64],
        taus: NDArray[np.float32],
        steps: NDArray[np.float32],
    ) -> None:
        """Add an update to the residual, take out what reaches the threshold, and list it: 12 bytes an element.

        One launch; `result` tells what came out. An element whose sum is not finite keeps what it has.

        Parameters
        ----------
        residual
            ``[n] float32`` on the device, changed in place: what was kept so far in, what is kept now out.
        update
            ``[n] float32`` on the device, read only.
        ends, taus, steps
            ``[groups]``, NumPy: as in `hvdspark_kernels.threshold.cpu.encode`. Copied to the device where they differ
            from the last pass's.
        """
        self._launch(self._tiles.encode, residual, update, update, ends, taus, steps)

    def encode_difference(
        self,
        residual: Any,
        before: Any,
        after: Any,
        ends: NDArray[np.int64],
        taus: NDArray[np.float32],
        steps: NDArray[np.float32],
    ) -> None:
        """Encode ``before - after`` (each ``[n] float32``, read only) as `encode` does: 16 bytes an element."""
        self._launch(self._tiles.encode_difference, residual, before, after, ends, taus, steps)

    def encode_accumulated(
        self, residual: Any, ends: NDArray[np.int64], taus: NDArray[np.float32], steps: NDArray[np.float32]
    ) -> None:
        """Encode a residual to which the update has been added already, as `encode` does: 4 bytes an element."""
        self._launch(self._tiles.encode_accumulated, residual, residual, residual, ends, taus, steps)

    def result(self) -> tuple[int, int, NDArray[np.int64]]:
        """Wait for the last pass, and return what came out of it.

        Returns
        -------
        (count, bad, counts)
            The number of codes; the first index where ``residual + update`` was not finite, or -1; the number of codes
            of each group, ``[groups] int64``.
        """
        found = device.to_host(self._result, self._queue)
        number, key = (found[tile.BAD] >> 32, found[tile.BAD] & tile.LAST_INDEX)
        bad = int(tile.LAST_INDEX - key) if self._passes and number == found[tile.PASS] else -1
        return int(found[tile.COUNT]), bad, np.diff(found[tile.REACHED :], prepend=0)

    def codes(self, count: int) -> NDArray[np.int32]:
        """Return the first `count` codes, ``[count] int32``."""
        if not 0 <= count <= self.capacity:
            raise ValueError(f"there is room for {self.capacity} codes, not for {count}")
        return device.to_host(self.device_codes[:count], self._queue) if count else np.empty(0, np.int32)

    def undo(self, residual: Any, update: Any) -> None:
        """Take the last pass back, to within a rounding or two of the sums; for when `result` tells of a bad sum.

        An element whose sum was not finite is as it was, unless it holds more than a fifth of float32's range.
        """
        self._undo(take_back, residual, update, update)

    def undo_difference(self, residual: Any, before: Any, after: Any) -> None:
        """Take the last pass back, which was an `encode_difference`: see `undo`."""
        self._undo(take_back_difference, residual, before, after)

    def undo_accumulated(self, residual: Any) -> None:
        """Take the last pass back, which was an `encode_accumulated`: add what its codes took off."""
        (view,) = self._check_arrays(residual)
        count, _, counts = self.result()
        run_ends = self._to_device(np.cumsum(counts))
        add_runs(self.device_codes, None, 0, count, run_ends, self._steps, view, self._queue)

    def _launch(
        self,
        kernel: Any,
        residual: Any,
        first: Any,
        second: Any,
        ends: NDArray[np.int64],
        taus: NDArray[np.float32],
        steps: NDArray[np.float32],
    ) -> None:
        arrays = self._check_arrays(residual, first, second)
        self._check_groups(ends, taus, steps)
        mine = (self._ends, self._taus, self._steps)
        given: list[NDArray[Any]] = [ends, taus, steps]
        for own, sent, array in zip(mine, self._sent, given, strict=True):
            if not np.array_equal(sent, array):
                sent[:] = array
                own.copy_to_device(sent, stream=self._queue)
        kernel[self._status.size, self._tiles.threads, self._queue](
            *arrays, *mine, self.device_codes, self._tickets, self._status, self._result
        )
        self._passes += 1

    def _undo(self, kernel: Any, residual: Any, first: Any, second: Any) -> None:
        arrays = self._check_arrays(residual, first, second)
        self.undo_accumulated(arrays[0])
        kernel[device.grid(self.n), device.THREADS, self._queue](*arrays)

    def _to_device(self, array: NDArray[Any]) -> Any:
        return cuda.to_device(array, stream=self._queue)

    def _check_arrays(self, *arrays: Any) -> list[Any]:
        views = [device.as_device(array, np.float32) for array in arrays]
        if any(view.size != self.n for view in views):
            raise ValueError(f"arrays of {self.n} elements are needed, not of {[view.size for view in views]}")
        return views

    def _check_groups(self, ends: NDArray[np.int64], taus: NDArray[np.float32], steps: NDArray[np.float32]) -> None:
        kinds = [array.dtype for array in (ends, taus, steps)]
        if kinds != [np.int64, np.float32, np.float32]:
            raise ValueError(f"ends, taus, steps must be int64, float32, float32, not {kinds}")
        if not ends.shape == taus.shape == steps.shape == (self.groups,) or ends[-1] != self.n:
            raise ValueError(f"{self.groups} groups that end at {self.n} are needed, not {ends.tolist()}")
        if ends[0] < 0 or (ends[1:] < ends[:-1]).any():
            raise ValueError(f"the ends of groups must rise, not {ends.tolist()}")
        if not ((taus > 0) & (taus < _INFINITY)).all() or not ((steps >= 0) & (steps < _INFINITY)).all():
            raise ValueError(
                f"tau must be above zero and finite (got {taus.tolist()}), and steps {steps.tolist()} likewise"
            )
