"""Who gets which rows, and how long Spark holds them: what the repartition options and `storage_level` do."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from hvdspark.data import FileSource, RDDSource, Repartition, Repartitioner, RepartitionStrategy, Source, repartition
from hvdspark.data.repartition import lay_out
from hvdspark.errors import ConfigurationError

if TYPE_CHECKING:
    from pyspark import RDD
    from pyspark.sql import DataFrame

__all__ = ["STORAGE_LEVELS", "Layout"]

STORAGE_LEVELS = (
    "DISK_ONLY", "DISK_ONLY_2", "DISK_ONLY_3", "MEMORY_AND_DISK", "MEMORY_AND_DISK_2", "MEMORY_AND_DISK_DESER",
    "MEMORY_ONLY", "MEMORY_ONLY_2", "OFF_HEAP",
)  # fmt: skip
"""What pyspark's StorageLevel knows, but for NONE."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """The options of a master that say who gets which rows; None: not given.

    Parameters
    ----------
    is_direct : bool
        Whether ranks read their own partitions.
    min_objects : int
        What repartitioners are told of the size of a minibatch.
    storage_level : str
        One of `STORAGE_LEVELS`.
    repartitioner, repartition, strategy
        As of `TrainingMaster`.
    """

    is_direct: bool
    min_objects: int
    storage_level: str | None
    repartitioner: Repartitioner | None
    repartition: Repartition | None
    strategy: RepartitionStrategy | None

    def check(self, source: Source) -> None:
        """Refuse what cannot act on a source.

        Raises
        ------
        ConfigurationError
            With the option, why, and what to do.
        """
        given = {name for name, value in self._given().items() if value is not None}
        if isinstance(source, RDDSource):
            return
        if not self.is_direct:
            why = f"on {source.name} that is staged: nothing of it is held or dealt out. Leave it out, or use"
            _refuse(given, f'{why} rdd_training_approach="direct"')
        if isinstance(source, FileSource):
            _refuse(given, f"on {source.name}, which ranks load themselves, as many as any other: leave it out")
        if self.strategy is RepartitionStrategy.SPARK_DEFAULT:
            given -= {"repartition_strategy"}
        how = {"repartitioner", "repartition_strategy"}
        _refuse(given & how, "on a DataFrame, which Spark deals out itself: give an RDD, or leave it out")
        if self.repartition not in (None, Repartition.ALWAYS) and not hasattr(source.spark, "sparkContext"):
            why = "under Spark Connect, which does not tell how many partitions there are"
            _refuse(given & {"repartition"}, f'{why}: leave it out, or give "always"')

    @contextlib.contextmanager
    def of_rdd(self, source: Source, num_workers: int) -> Iterator[Source]:
        """Lay an RDD out and hold it for the length of a block; other sources stay as they are."""
        if not isinstance(source, RDDSource):
            yield source
            return
        rdd = source.rdd
        with _held(rdd, None if rdd.is_cached else self.storage_level):  # what the user holds, he lets go of
            if not self.is_direct and all(
                each is None for each in (self.repartitioner, self.repartition, self.strategy)
            ):
                yield source
                return
            yield source.laid_out(self._moved(rdd, num_workers), repr((self._given(), num_workers)))

    @contextlib.contextmanager
    def of_frame(self, frame: DataFrame, num_workers: int) -> Iterator[DataFrame]:
        """Return a DataFrame in as many partitions as there are workers, and hold it for the length of a block.

        Raises
        ------
        ConfigurationError
            If partitions are to stay as they are, and there are more or fewer.
        """
        when = self.repartition or Repartition.ALWAYS
        if when is Repartition.ALWAYS:
            frame = frame.repartition(num_workers)
        elif (count := frame.rdd.getNumPartitions()) != num_workers:
            if when is Repartition.NEVER:
                raise ConfigurationError(
                    f'repartition="never": the DataFrame has {count} partitions, and there are {num_workers} ranks: '
                    f"give df.repartition({num_workers}), num_workers={count}, or leave the option out"
                )
            frame = frame.repartition(num_workers)
        with _held(frame, self.storage_level):
            yield frame

    def _given(self) -> dict[str, Any]:
        return {
            "storage_level": self.storage_level, "repartitioner": self.repartitioner, "repartition": self.repartition,
            "repartition_strategy": self.strategy,
        }  # fmt: skip

    def _moved(self, rdd: RDD[Any], num_workers: int) -> RDD[Any]:
        when, moved = self.repartition or Repartition.ALWAYS, rdd
        if when.is_needed(rdd.getNumPartitions(), num_workers):
            if self.repartitioner is not None:
                moved = self.repartitioner.repartition(rdd, self.min_objects, num_workers)
            else:
                moved = repartition(rdd, num_workers, strategy=self.strategy or RepartitionStrategy.BALANCED)
        if not self.is_direct or (moved is not rdd and moved.getNumPartitions() == num_workers):
            return moved
        # Whole partitions, to one rank each. Also where there are as many already: a barrier stage refuses an RDD with
        # a union or coalesce behind it (SPARK-24820), and after a shuffle there is none.
        count = moved.getNumPartitions()

        def targets(partition: int, objects: Iterable[Any]) -> Iterator[tuple[int, int, Any]]:
            return ((partition * num_workers // count, place, each) for place, each in enumerate(objects))

        return lay_out(moved, num_workers, targets)


def _refuse(options: set[str], why: str) -> None:
    if options:
        raise ConfigurationError(f"{min(options)} cannot act {why}")


@contextlib.contextmanager
def _held(held: RDD[Any] | DataFrame, level: str | None) -> Iterator[None]:
    if level is None:
        yield
        return
    from pyspark import StorageLevel

    held.persist(getattr(StorageLevel, level))
    try:
        yield
    finally:
        held.unpersist()
