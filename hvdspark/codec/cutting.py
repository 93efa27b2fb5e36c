"""Messages cut into those of consecutive regions of elements, each of which its receiver reads by itself."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hvdspark.codec.decoder import read_messages
from hvdspark.codec.groups import Groups
from hvdspark.codec.message import Message, Stamp
from hvdspark.codec.multiples import BITS
from hvdspark.codec.writer import Writer

__all__ = ["Cutter"]


class Cutter:
    """Cuts messages with codes at the same places each time.

    Parameters
    ----------
    ends
        Where each region ends, rising; the last one is the number of elements.
    groups
        The most groups of elements that a message has.
    num_threads
        The most threads to use; None for a default.
    """

    def __init__(self, ends: Sequence[int], groups: int = 1, num_threads: int | None = None) -> None:
        self._ends = list(ends)
        starts = [0, *self._ends[:-1]]
        sizes = [end - start for start, end in zip(starts, self._ends, strict=True)]
        self._starts = np.array(starts, np.int32)
        self._writers = [Writer(size, groups, "auto", BITS, num_threads) for size in sizes]

    def cut(self, message: Message) -> list[NDArray[np.uint8]]:
        """Return one message a region: together they stand for what the whole one stands for.

        Elements of a region are numbered from 0. Each message is written in the format that is the smallest for it. A
        group of which a region has no code is not mentioned in its message.

        Returns
        -------
        list of ``[m] uint8``
            Memory of the cutter, valid until the next cut.

        Raises
        ------
        MessageError
            If the message is not good.
        """
        found = read_messages([message], self._ends[-1])
        header, groups, codes, multiples = *found.messages[0][:2], found.codes(0), found.multiples(0)
        stamp = Stamp(header.run_id, header.rank, header.step, header.examples)
        lasts = np.searchsorted(np.abs(codes), self._ends, side="right")
        moved = codes - np.sign(codes) * np.repeat(self._starts, np.diff(lasts, prepend=0))
        stops, made = lasts.tolist(), []
        for writer, first, last in zip(self._writers, [0, *stops[:-1]], stops, strict=True):
            some = None if multiples is None else multiples[first:last]
            made.append(writer.write(moved[first:last], some, _between(groups, first, last), stamp)[1])
        return made


def _between(groups: Groups, first: int, last: int) -> Groups:
    """Return the groups of the codes from `first` to `last`; where there are none, the first group without any."""
    found, end = Groups([], [], []), 0
    for count, threshold, magnitude in zip(*groups, strict=True):
        begin, end = end, end + count
        inside = min(end, last) - max(begin, first)
        if inside > 0:
            found.counts.append(inside)
            found.thresholds.append(threshold)
            found.magnitudes.append(magnitude)
    return found if found.counts else Groups([0], groups.thresholds[:1], [0.0])
