"""How many examples a rank's step stands for: what means over ranks are weighted by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from hvdspark.collectives import Collective
from hvdspark.errors import ConfigurationError, RankMismatch

__all__ = ["Part", "check_counts"]

_UNCOUNTED = 2**32 - 1  # in a message's header: the sender did not say


@dataclass(frozen=True)
class Part:
    """A rank's share of a step.

    Parameters
    ----------
    examples : int, optional
        Examples of this rank. None: all ranks weigh the same.
    total : int, optional
        Examples of all ranks. None: not known.
    """

    examples: int | None = None
    total: int | None = None

    @classmethod
    def checked(cls, examples: int | None, total: int | None) -> Self:
        """Make one of what a user gave.

        Raises
        ------
        ConfigurationError
            A number is no count, or the two do not fit together.
        """
        for name, value in (("examples", examples), ("total_examples", total)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
                raise ConfigurationError(f"step({name}=...): a whole number from 0 is needed, not {value!r}")
        if total is not None and examples is None:
            raise ConfigurationError("step(total_examples=...) needs examples=..., this rank's part of them")
        if examples is not None and (examples >= _UNCOUNTED or (total is not None and examples > total)):
            raise ConfigurationError(
                f"step(examples={examples}): this rank cannot have more examples than all ranks ({total}) together"
            )
        return cls(examples, total)

    @property
    def stamp(self) -> int:
        """The count as a message's header carries it."""
        return _UNCOUNTED if self.examples is None else self.examples

    def weight(self, collective: Collective) -> float:
        """Return by what this rank's part is multiplied so that the plain mean over ranks is the mean over examples.

        Where `examples` is given and `total` is not, one small exchange finds it; all ranks call this.

        Raises
        ------
        RankMismatch
            If not all ranks ask.
        """
        if self.examples is None:
            return 1.0
        total = self._count(collective) if self.total is None else self.total
        return collective.size * self.examples / total if total else 1.0

    def _count(self, collective: Collective) -> int:
        counted = np.array([self.examples], np.int64)
        try:
            collective.allreduce_(counted)
        except RankMismatch as error:
            error.add_note("step(examples=...) must be given on all ranks or on none, and total_examples likewise")
            raise
        return int(counted[0])


def check_counts(part: Part, stamps: Sequence[int]) -> None:
    """Make sure that what all ranks say of their parts fits together; all ranks hold the same numbers.

    Parameters
    ----------
    part : Part
        This rank's.
    stamps : sequence of int
        `Part.stamp` of each rank, in rank order.

    Raises
    ------
    RankMismatch
        Some ranks count their examples and others do not, or the counts do not add up to the total.
    """
    counted = [stamp != _UNCOUNTED for stamp in stamps]
    if any(counted) and not all(counted):
        silent = [rank for rank, says in enumerate(counted) if not says]
        raise RankMismatch(f"step(examples=...) must be given on all ranks or on none: ranks {silent} did not give it")
    if part.total is not None and sum(stamps) != part.total:
        listed = ", ".join(f"rank {rank}: {stamp}" for rank, stamp in enumerate(stamps))
        raise RankMismatch(
            f"step(total_examples={part.total}), but the ranks' examples add up to {sum(stamps)} ({listed}): "
            "total_examples is the sum over all ranks, the same on each"
        )
