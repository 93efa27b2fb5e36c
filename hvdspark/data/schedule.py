"""What every plan of an epoch tells: who takes which rows at which step."""

import abc
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Plan"]


class Plan(abc.ABC):
    """The order of one epoch, cut into steps and ranks. A value: equal arguments give equal plans on every host.

    Laws: no row comes twice in an epoch, and none is left out but by `EpochPlan.drop_last`; all ranks have the same
    number of steps; no rank takes more than the batch size in a step; every step has a row on some rank.
    """

    size: int
    """Number of ranks."""

    @property
    @abc.abstractmethod
    def num_examples(self) -> int:
        """Rows of an epoch, over all ranks."""

    @property
    @abc.abstractmethod
    def num_steps(self) -> int:
        """Steps of an epoch: the same on all ranks."""

    @abc.abstractmethod
    def groups_of(self, rank: int) -> tuple[int, ...]:
        """Return the rows of each row group that a rank reads from: what `blocks` counts through."""

    @abc.abstractmethod
    def total_examples(self, step: int) -> int:
        """Return how many rows all ranks take together in a step."""

    @abc.abstractmethod
    def examples(self, rank: int, step: int) -> int:
        """Return how many rows a rank takes in a step; 0 is possible."""

    @abc.abstractmethod
    def blocks(self, rank: int, start_step: int = 0) -> "Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]":
        """Yield all rows that a rank takes from a step on, in order, a block at a time.

        Yields
        ------
        groups, rows
            `[k] int64` each, k > 0: the group of each row, and its index in that group, not to be written to.
        """

    @abc.abstractmethod
    def facts(self) -> dict[str, Any]:
        """Return what tells this plan from others, as plain values: what a position in it is kept with."""
