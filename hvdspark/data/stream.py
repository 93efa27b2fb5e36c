"""One rank's rows of an epoch as a stream: a block is decoded at a time, and batches are cut from it."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark.data.fields import Field
from hvdspark.data.row_groups import GroupReader

__all__ = ["RowStream"]


class RowStream:
    """Hands out rows in order. Used by one thread at a time.

    It holds a rank's rows of one block, in buffers that serve one block after the other, and one row group while that
    is copied: each row group is read once, each row copied twice, whatever the batch size.

    Parameters
    ----------
    reader
        Where row groups come from.
    fields
        What a row consists of.
    blocks
        Groups and rows in the order in which they are wanted (`EpochPlan.blocks`).
    """

    def __init__(
        self,
        reader: GroupReader,
        fields: Sequence[Field],
        blocks: Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]],
    ) -> None:
        self._reader = reader
        self._blocks = blocks
        self._buffers = [np.empty((0, *field.shape), field.dtype) for field in fields]
        self._places = np.empty(0, np.int64)  # where in the buffers the rows lie that are still to come

    @property
    def num_bytes(self) -> int:
        """Bytes of the buffers."""
        return sum(buffer.nbytes for buffer in self._buffers)

    def take_into(self, arrays: Sequence[NDArray[Any]]) -> None:
        """Fill arrays of the fields, `[n, *field.shape]`, with the next n rows.

        Raises
        ------
        StorageError
            Where a row group cannot be read.
        """
        filled, wanted = 0, len(arrays[0])
        while filled < wanted:
            if not len(self._places):
                self._decode(*next(self._blocks))
            places = self._places[: wanted - filled]
            self._places = self._places[len(places) :]
            for array, buffer in zip(arrays, self._buffers, strict=True):
                # "clip" for its speed: numpy buffers the output of a take that may raise
                np.take(buffer, places, axis=0, out=array[filled : filled + len(places)], mode="clip")
            filled += len(places)

    def _decode(self, groups: NDArray[np.int64], rows: NDArray[np.int64]) -> None:
        """Read what a block needs, group by group: rows lie in the buffers as in their groups."""
        if len(self._buffers[0]) < len(groups):
            self._buffers = [np.empty((len(groups), *buffer.shape[1:]), buffer.dtype) for buffer in self._buffers]
        order = np.lexsort((rows, groups))
        groups, rows = groups[order], rows[order]
        starts = [0, *(np.flatnonzero(np.diff(groups)) + 1).tolist(), len(groups)]
        for start, stop in itertools.pairwise(starts):
            arrays = self._reader.group(int(groups[start]))
            for buffer, array in zip(self._buffers, arrays, strict=True):
                if len(array) == stop - start:
                    buffer[start:stop] = array  # all of them, in order
                else:
                    np.take(array, rows[start:stop], axis=0, out=buffer[start:stop], mode="clip")
        self._places = np.empty(len(order), np.int64)
        self._places[order] = np.arange(len(order))
