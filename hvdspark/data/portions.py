"""A data set as one rank reads it: the row groups at hand, and the plan that all ranks share."""

import abc
from dataclasses import dataclass

from hvdspark.data.direct_plan import DirectPlan
from hvdspark.data.filling import rows_in_group
from hvdspark.data.manifest import Manifest
from hvdspark.data.plan import EpochPlan
from hvdspark.data.row_groups import RowGroups, StagedRowGroups
from hvdspark.data.schedule import Plan
from hvdspark.data.spill import SpilledRowGroups

__all__ = ["Portion", "SpilledPortion", "StagedPortion"]


class Portion(abc.ABC):
    """What one rank can read of a data set.

    Law: the plans that the ranks' portions make of the same arguments are equal.
    """

    @property
    @abc.abstractmethod
    def groups(self) -> RowGroups:
        """The row groups that this rank reads from."""

    @property
    @abc.abstractmethod
    def num_rows(self) -> int:
        """Rows of the whole data set, over all ranks."""

    @abc.abstractmethod
    def plan(
        self, *, size: int, batch_size: int, seed: int, epoch: int, shuffle: bool, drop_last: bool = False
    ) -> Plan:
        """Return the plan of an epoch for so many ranks; `drop_last` is for staged rows only."""


class StagedPortion(Portion):
    """A staged data set: every rank can read all of it.

    Parameters
    ----------
    directory
        Path or URL of the data set.
    """

    def __init__(self, directory: str) -> None:
        self._manifest = Manifest.read(directory)
        self._groups = StagedRowGroups(directory, self._manifest)

    @property
    def groups(self) -> StagedRowGroups:
        """All row groups."""
        return self._groups

    @property
    def num_rows(self) -> int:
        """Rows of the data set."""
        return self._manifest.num_rows

    def plan(
        self, *, size: int, batch_size: int, seed: int, epoch: int, shuffle: bool, drop_last: bool = False
    ) -> EpochPlan:
        """Return the plan of an epoch for so many ranks."""
        return EpochPlan(self._manifest.rows_per_group, size, batch_size, seed, epoch, shuffle, drop_last)


@dataclass(frozen=True)
class SpilledPortion(Portion):
    """The rows that a rank has spilled itself.

    Parameters
    ----------
    own
        They.
    rows_per_rank
        Rows of each rank.
    """

    own: SpilledRowGroups
    rows_per_rank: tuple[int, ...]

    @property
    def groups(self) -> SpilledRowGroups:
        """The row groups of this rank."""
        return self.own

    @property
    def num_rows(self) -> int:
        """Rows of all ranks."""
        return sum(self.rows_per_rank)

    def plan(
        self, *, size: int, batch_size: int, seed: int, epoch: int, shuffle: bool, drop_last: bool = False
    ) -> DirectPlan:
        """Return the plan of an epoch; `size` is the number of ranks that have spilled."""
        assert size == len(self.rows_per_rank)
        assert not drop_last, "a master refuses it"
        rows_per_group = rows_in_group(self.own.fields, self.own.most_rows)
        return DirectPlan(self.rows_per_rank, rows_per_group, batch_size, seed, epoch, shuffle)
