"""Which rank reads which rows at which step: pure functions of the row counts, the sizes, the seed and the epoch.

The law. Rows lie in row groups. The order of an epoch permutes the row groups, takes them in blocks of 32, permutes the
rows of each block, and puts the blocks one behind the other. It depends on row counts, seed and epoch, never on the
number of ranks or the batch size. Step t takes the next ``size * batch_size`` rows of that order, rank r the r-th of
`size` consecutive pieces of them. Therefore

- each row comes exactly once in an epoch, on exactly one rank;
- N ranks with batch b see, step by step, the batches that one rank with batch N * b sees;
- all ranks have the same number of steps, and the pieces of a step differ by one row at most (only the last step of an
  epoch can be ragged: a rank may get no row of it).

A batch draws from all groups of a block, which come from all over the data: also where the data is sorted, by class for
example, a batch is a mixture. A reader holds its rank's rows of one block. A plan knows row groups; the rows of a block
are drawn when they are wanted, so it needs memory for groups, not for rows.

Without ``drop_last`` no row is left out. With it an epoch has whole steps only, and the rows at the end of its order
that fill none are left out: fewer than ``size * batch_size``, others in each epoch where rows are shuffled.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hvdspark.data.schedule import Plan
from hvdspark.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["GROUPS_PER_BLOCK", "ORDER_VERSION", "EpochPlan"]

ORDER_VERSION = 1
"""Recorded with the seed: a change of the order under the same seed raises it."""

GROUPS_PER_BLOCK = 32
"""Row groups whose rows are mixed with each other: what a reader must hold."""

_GROUPS, _ROWS = 0, 1  # what a stream of random numbers is for: no two purposes share one


@dataclass(frozen=True)
class EpochPlan(Plan):
    """The order of one epoch, cut into steps and ranks. A value: equal arguments give equal plans on every host.

    Parameters
    ----------
    rows_per_group
        Rows of each row group, in the order of the manifest.
    size
        Number of ranks.
    batch_size
        Rows a rank takes in a step.
    seed, epoch
        Not negative; together they decide the order.
    shuffle
        False: the order in which the rows are stored, in every epoch.
    drop_last
        Leave out the rows that fill no whole step of all ranks.

    Raises
    ------
    ConfigurationError
        Where a number is out of range.
    DataError
        Where there is no row, or none is left.
    """

    rows_per_group: tuple[int, ...]
    size: int
    batch_size: int
    seed: int
    epoch: int
    shuffle: bool = True
    drop_last: bool = False

    def __post_init__(self) -> None:
        for name, least in (("size", 1), ("batch_size", 1), ("seed", 0), ("epoch", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ConfigurationError(f"EpochPlan.{name}: an integer of at least {least} is needed, not {value!r}")
        if any(rows < 0 for rows in self.rows_per_group):
            raise ConfigurationError("EpochPlan.rows_per_group: a row group cannot have fewer than 0 rows")
        if self.num_rows == 0:
            raise DataError("there is no row to train on: give data with at least one row")
        if self.num_steps == 0:
            raise DataError(
                f"drop_last=True leaves no row: {self.num_rows} rows fill no step of {self.size} ranks x "
                f"{self.batch_size} rows. Give more rows, a smaller batch, fewer ranks, or drop_last=False"
            )

    @functools.cached_property
    def num_rows(self) -> int:
        """Rows of the data set."""
        return sum(self.rows_per_group)

    @property
    def num_examples(self) -> int:
        """Rows of an epoch, over all ranks: all of the data set, less those that `drop_last` leaves out."""
        step = self.size * self.batch_size
        return self.num_rows // step * step if self.drop_last else self.num_rows

    @property
    def num_steps(self) -> int:
        """Steps of an epoch: the same on all ranks."""
        return -(-self.num_examples // (self.size * self.batch_size))

    def groups_of(self, rank: int) -> tuple[int, ...]:
        """Return the rows of each row group: all ranks read from the same ones."""
        del rank
        return self.rows_per_group

    def total_examples(self, step: int) -> int:
        """Return how many rows all ranks take together in a step."""
        start, stop = self._step_range(step)
        return stop - start

    def examples(self, rank: int, step: int) -> int:
        """Return how many rows a rank takes in a step; 0 is possible in the last one."""
        start, stop = self._piece_range(rank, step)
        return stop - start

    def facts(self) -> dict[str, Any]:
        """Return what tells this plan from others, as plain values: what a position in it is kept with."""
        names = ("size", "batch_size", "seed", "epoch", "shuffle", "drop_last", "num_rows")
        told = {name: getattr(self, name) for name in names}
        return {**told, "num_groups": len(self.rows_per_group), "order_version": ORDER_VERSION}

    def blocks(self, rank: int, start_step: int = 0) -> "Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]":
        """Yield all rows that a rank takes from a step on, in order, a block at a time.

        Yields
        ------
        groups, rows
            `[k] int64` each, k > 0: the group of each row, and its index in that group, not to be written to.
        """
        import numpy as np

        start = start_step * self.size * self.batch_size
        first = int(np.searchsorted(self._block_ends, start, side="right"))
        for block in range(first, len(self._block_ends)):
            begin = int(self._block_ends[block - 1]) if block else 0
            own = self._own(rank, max(begin, start), min(int(self._block_ends[block]), self.num_examples)) - begin
            if len(own):
                groups, rows = self._block(block)
                yield groups[own], rows[own]

    def _own(self, rank: int, start: int, stop: int) -> "NDArray[np.int64]":
        """Return those places of a stretch of the order that are a rank's."""
        import numpy as np

        step = self.size * self.batch_size
        whole = self.num_examples // step * step
        places = np.arange(start, min(stop, whole))
        places = places[places % step // self.batch_size == rank]
        if stop > whole:
            first, last = self._piece_range(rank, self.num_steps - 1)
            places = np.concatenate([places, np.arange(max(first, start), min(last, stop))])
        return places

    def _step_range(self, step: int) -> tuple[int, int]:
        if not 0 <= step < self.num_steps:
            raise ConfigurationError(f"step {step} is not one of the {self.num_steps} steps of this epoch")
        start = step * self.size * self.batch_size
        return start, min(start + self.size * self.batch_size, self.num_examples)

    def _piece_range(self, rank: int, step: int) -> tuple[int, int]:
        if not 0 <= rank < self.size:
            raise ConfigurationError(f"rank {rank} is not one of {self.size} ranks")
        start, stop = self._step_range(step)
        least, extra = divmod(stop - start, self.size)
        start += rank * least + min(rank, extra)
        return start, start + least + (rank < extra)

    @functools.cached_property
    def _group_order(self) -> "NDArray[np.int64]":
        import numpy as np

        if self.shuffle:
            return _permutation(len(self.rows_per_group), self.seed, self.epoch, _GROUPS)
        return np.arange(len(self.rows_per_group))

    @functools.cached_property
    def _block_ends(self) -> "NDArray[np.int64]":
        """Where each block ends in the order of the epoch."""
        import numpy as np

        ends = np.cumsum(np.asarray(self.rows_per_group, dtype=np.int64)[self._group_order])
        last = np.arange(GROUPS_PER_BLOCK, len(ends) + GROUPS_PER_BLOCK, GROUPS_PER_BLOCK) - 1
        return ends[np.minimum(last, len(ends) - 1)]

    def _block(self, block: int) -> "tuple[NDArray[np.int64], NDArray[np.int64]]":
        """Return the group of each row of a block, and its index in that group, in the order of the epoch."""
        order = self._group_order[block * GROUPS_PER_BLOCK : (block + 1) * GROUPS_PER_BLOCK]
        groups = tuple(int(group) for group in order)
        rows = tuple(self.rows_per_group[group] for group in groups)
        return _mixed(groups, rows, (self.seed, self.epoch, _ROWS, block) if self.shuffle else None)


@functools.lru_cache(maxsize=4)  # the blocks in use: ranks of one process are near the same place of the order
def _mixed(
    groups: tuple[int, ...], rows: tuple[int, ...], key: tuple[int, ...] | None
) -> "tuple[NDArray[np.int64], NDArray[np.int64]]":
    import numpy as np

    group_of = np.repeat(np.asarray(groups, np.int64), rows)
    row_of = np.concatenate([np.arange(count, dtype=np.int64) for count in rows])
    if key is not None:
        permutation = _permutation(len(row_of), *key)
        group_of, row_of = group_of[permutation], row_of[permutation]
    group_of.setflags(write=False)
    row_of.setflags(write=False)
    return group_of, row_of


def _permutation(count: int, seed: int, *key: int) -> "NDArray[np.int64]":
    """Return `[count] int64`, read-only: a permutation that depends on nothing but `seed` and `key`.

    The order of random 64-bit numbers of the counter-based generator Philox (Salmon et al. 2011). Generator.permutation
    would be faster, but numpy may change its results between releases; the raw stream of a bit generator it may not.
    """
    import numpy as np

    raw = np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)).random_raw(count)
    permutation = np.argsort(raw, kind="stable")
    permutation.setflags(write=False)
    return permutation
