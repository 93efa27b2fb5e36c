"""What a message says of each group of elements: how many codes it has, what they stand for, and by which threshold."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hvdspark.codec.tau import MIN_TAU, are_taus, is_tau, is_zero

__all__ = ["Groups"]

_ROW_BYTES = 12


class Groups(NamedTuple):
    """One entry a group, in order of the elements. A message of one group has them in its header.

    Lists: there is one group, as a rule, for which arrays would take ten times as long.

    Attributes
    ----------
    counts
        Codes of each group; the first codes are those of the first group.
    thresholds
        What the threshold algorithm gave, float32, but not rounded to a bfloat16 number; 0 while undecided.
    magnitudes
        What a code stands for, bfloat16 numbers; 0 where there are no codes.
    """

    counts: list[int]
    thresholds: list[float]
    magnitudes: list[float]

    @staticmethod
    def table_bytes(groups: int) -> int:
        """Return the bytes in front of the codes: 12 a group, filled up to a multiple of 8; none for one group."""
        return 0 if groups == 1 else -(-groups * _ROW_BYTES // 8) * 8

    def write(self, table: NDArray[np.uint8]) -> None:
        """Write the table: counts as uint32, then thresholds, then magnitudes, then zeros."""
        size = 4 * len(self.counts)
        table[:size].view("<u4")[:] = self.counts
        table[size : 2 * size].view("<f4")[:] = self.thresholds
        table[2 * size : 3 * size].view("<f4")[:] = self.magnitudes
        table[3 * size :] = 0

    @classmethod
    def one(cls, count: int, threshold: float, magnitude: float) -> "Groups":
        """Make the entry of a single group of codes.

        Raises
        ------
        ValueError
            For what no encoder would say.
        """
        if not (MIN_TAU <= threshold < math.inf or (not count and is_zero(threshold))):
            raise _wrong_threshold(threshold)
        if not (is_tau(magnitude) if count else is_zero(magnitude)):
            raise _wrong_magnitude(magnitude)
        return cls([count], [threshold], [magnitude])

    @classmethod
    def read(cls, table: NDArray[np.uint8], groups: int, count: int) -> "Groups":
        """Read the table of so many groups with so many codes.

        Raises
        ------
        ValueError
            For what no encoder would have written.
        """
        size = 4 * groups
        counts = table[:size].view("<u4")
        thresholds = table[size : 2 * size].view("<f4").astype(np.float32)
        magnitudes = table[2 * size : 3 * size].view("<f4").astype(np.float32)
        found = cls(counts.tolist(), thresholds.tolist(), magnitudes.tolist())
        if table[3 * size :].any():
            raise ValueError("the table of groups is not filled up with zeros")
        if sum(found.counts) != count:
            raise ValueError(f"the groups have {sum(found.counts)} codes, the message {count}")
        silent = counts == 0
        known = (thresholds >= np.float32(MIN_TAU)) & (thresholds < np.inf)
        bad = ~(known | (silent & (thresholds.view(np.uint32) == 0)))
        if bad.any():
            raise _wrong_threshold(thresholds[bad][0])
        bad = np.where(silent, magnitudes.view(np.uint32) != 0, ~are_taus(magnitudes))
        if bad.any():
            raise _wrong_magnitude(magnitudes[bad][0])
        return found


def _wrong_threshold(value: float) -> ValueError:
    return ValueError(f"the threshold {value} of codes is no finite number of at least {MIN_TAU}")


def _wrong_magnitude(value: float) -> ValueError:
    return ValueError(
        f"the magnitude {value} is no finite bfloat16 number of at least {MIN_TAU}, or not zero where nothing is sent"
    )
