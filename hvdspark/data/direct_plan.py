"""Which rows a rank takes at which step where each rank has rows of its own: a partition of Spark.

The law. Rank r has n_r rows, in row groups of its own. The order of its epoch is that of `EpochPlan` for one rank,
under a seed drawn from the run's seed and r: it depends on n_r, seed, epoch and r. All ranks take
T = ceil(max n_r / batch size) steps, and rank r's rows are spread evenly over them: step t takes the rows from
floor(t n_r / T) to floor((t + 1) n_r / T) of its order. Therefore

- each row comes exactly once in an epoch, on the rank that has it;
- all ranks have the same number of steps, and no rank takes more than the batch size;
- a rank's steps differ by one row at most, so each step mixes rows of all ranks in the proportion that they have. Were
  each rank to take full batches until it has no more, the last steps would be those of the largest partitions alone.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hvdspark.data.plan import ORDER_VERSION, EpochPlan
from hvdspark.data.schedule import Plan
from hvdspark.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["DirectPlan", "equal_groups"]


@dataclass(frozen=True)
class DirectPlan(Plan):
    """The epoch of ranks that have rows of their own.

    Parameters
    ----------
    rows_per_rank
        Rows of each rank; 0 is possible, but not for all.
    rows_per_group
        Rows of each of their row groups, but for a rank's last one.
    batch_size
        Rows a rank takes in a step, at most.
    seed, epoch
        Not negative; together with the rank they decide the order.
    shuffle
        False: the order in which the rows are stored, in every epoch.

    Raises
    ------
    ConfigurationError
        Where a number is out of range.
    DataError
        Where there is no row.
    """

    rows_per_rank: tuple[int, ...]
    rows_per_group: int
    batch_size: int
    seed: int
    epoch: int
    shuffle: bool = True

    def __post_init__(self) -> None:
        for name, least in (("rows_per_group", 1), ("batch_size", 1), ("seed", 0), ("epoch", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigurationError(f"DirectPlan.{name}: an integer of at least {least} is needed, not {value!r}")
        if any(rows < 0 for rows in self.rows_per_rank):
            raise ConfigurationError("DirectPlan.rows_per_rank: a rank cannot have fewer than 0 rows")
        if self.num_rows == 0:
            raise DataError("there is no row to train on: give data with at least one row")

    @property
    def size(self) -> int:  # type: ignore[override]  # read-only here
        """Number of ranks."""
        return len(self.rows_per_rank)

    @functools.cached_property
    def num_rows(self) -> int:
        """Rows of all ranks."""
        return sum(self.rows_per_rank)

    @property
    def num_examples(self) -> int:
        """Rows of an epoch, over all ranks: all."""
        return self.num_rows

    @functools.cached_property
    def num_steps(self) -> int:
        """Steps of an epoch: the batches of the rank that has the most rows."""
        return -(-max(self.rows_per_rank) // self.batch_size)

    def groups_of(self, rank: int) -> tuple[int, ...]:
        """Return the rows of each row group of a rank."""
        return equal_groups(self._rows_of(rank), self.rows_per_group)

    def total_examples(self, step: int) -> int:
        """Return how many rows all ranks take together in a step: at least one."""
        return sum(self.examples(rank, step) for rank in range(self.size))

    def examples(self, rank: int, step: int) -> int:
        """Return how many rows a rank takes in a step; 0 where it has fewer rows than there are steps."""
        return self.start(rank, step + 1) - self.start(rank, step)

    def start(self, rank: int, step: int) -> int:
        """Return how many rows a rank has taken before a step; all of them before `num_steps`."""
        if not 0 <= step <= self.num_steps:
            raise ConfigurationError(f"step {step} is not one of the {self.num_steps} steps of this epoch")
        return step * self._rows_of(rank) // self.num_steps

    def blocks(self, rank: int, start_step: int = 0) -> "Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]":
        """Yield all rows that a rank takes from a step on: see `Plan.blocks`."""
        start = self.start(rank, start_step)
        return self.order(rank).blocks(0, start) if start < self._rows_of(rank) else iter(())

    def facts(self) -> dict[str, Any]:
        """Return what tells this plan from others: see `Plan.facts`."""
        names = ("rows_per_rank", "rows_per_group", "batch_size", "seed", "epoch", "shuffle")
        told = {name: getattr(self, name) for name in names}
        return {**told, "rows_per_rank": list(self.rows_per_rank), "order_version": ORDER_VERSION}

    def order(self, rank: int) -> EpochPlan:
        """Return the order of a rank's rows, as a plan of one rank that takes one row a step; it must have rows."""
        return _order(self._rows_of(rank), self.rows_per_group, self.seed, rank, self.epoch, shuffle=self.shuffle)

    def _rows_of(self, rank: int) -> int:
        if not 0 <= rank < self.size:
            raise ConfigurationError(f"rank {rank} is not one of {self.size} ranks")
        return self.rows_per_rank[rank]


def equal_groups(num_rows: int, rows_per_group: int) -> tuple[int, ...]:
    """Return the sizes of row groups that are filled one after the other: the last one may be smaller."""
    whole, rest = divmod(num_rows, rows_per_group)
    return (rows_per_group,) * whole + ((rest,) if rest else ())


@functools.lru_cache(maxsize=4)  # ranks that are threads of one process each have their own
def _order(num_rows: int, rows_per_group: int, seed: int, rank: int, epoch: int, *, shuffle: bool) -> EpochPlan:
    import numpy as np

    drawn = int(np.random.SeedSequence(seed, spawn_key=(rank,)).generate_state(1, np.uint64)[0])
    return EpochPlan(equal_groups(num_rows, rows_per_group), 1, 1, drawn, epoch, shuffle)
