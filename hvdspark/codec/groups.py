"""What a message says of each group of elements: how many codes it has, what they stand for, and by which threshold."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from hvdspark.codec.tau import MIN_TAU, are_taus, is_tau, is_zero

__all__ = ["Groups"]


@dataclass(frozen=True)
class Groups:
    """One entry a group, in order of the elements. A message of one group has them in its header.

    Attributes
    ----------
    counts
        ``[groups] int64``: codes of each group; the first codes are those of the first group.
    thresholds
        ``[groups] float32``: what the threshold algorithm gave, not rounded; 0 while undecided.
    magnitudes
        ``[groups] float32``, bfloat16 numbers: what a code stands for; 0 where there are no codes.
    """

    ROW_BYTES: ClassVar[int] = 12

    counts: NDArray[np.int64]
    thresholds: NDArray[np.float32]
    magnitudes: NDArray[np.float32]

    @staticmethod
    def table_bytes(groups: int) -> int:
        """Return the bytes in front of the codes: 12 a group, filled up to a multiple of 8; none for one group."""
        return 0 if groups == 1 else -(-groups * Groups.ROW_BYTES // 8) * 8

    def write(self, table: NDArray[np.uint8]) -> None:
        """Write the table: counts as uint32, then thresholds, then magnitudes, then zeros."""
        size = 4 * self.counts.size
        table[:size].view("<u4")[:] = self.counts
        table[size : 2 * size].view("<f4")[:] = self.thresholds
        table[2 * size : 3 * size].view("<f4")[:] = self.magnitudes
        table[3 * size :] = 0

    @classmethod
    def read(cls, table: NDArray[np.uint8], groups: int) -> "Groups":
        """Read a table of the right size; what it says is not checked."""
        size = 4 * groups
        return cls(
            table[:size].view("<u4").astype(np.int64),
            table[size : 2 * size].view("<f4").astype(np.float32),
            table[2 * size : 3 * size].view("<f4").astype(np.float32),
        )

    def problem(self, count: int) -> str | None:
        """Return what is wrong, or None."""
        codes = self.counts.item() if self.counts.size == 1 else int(self.counts.sum())
        if codes != count:
            return f"the groups have {codes} codes, the message {count}"
        if self.counts.size == 1:  # the rule: in a fifth of the time
            tau, magnitude = self.thresholds.item(), self.magnitudes.item()
            if count and MIN_TAU <= tau < math.inf and is_tau(magnitude):
                return None
            if not count and (MIN_TAU <= tau < math.inf or is_zero(tau)) and is_zero(magnitude):
                return None
        known = (self.thresholds >= np.float32(MIN_TAU)) & (self.thresholds < np.inf)
        taus = are_taus(self.magnitudes)
        silent = self.counts == 0
        bad = ~(known | (silent & (self.thresholds.view(np.uint32) == 0)))
        if bad.any():
            return f"the threshold {self.thresholds[bad][0]} of codes is no finite number of at least {MIN_TAU}"
        bad = np.where(silent, self.magnitudes.view(np.uint32) != 0, ~taus)
        if bad.any():
            return (
                f"the magnitude {self.magnitudes[bad][0]} is no finite bfloat16 number of at least {MIN_TAU}, "
                "or not zero where nothing is sent"
            )
        return None
