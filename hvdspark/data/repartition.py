"""Who gets which objects of an RDD: repartitioners and strategies under Deeplearning4j's names, with exact counts.

Every layout here keeps all objects, none twice, also where Spark computes a partition twice with other objects. Objects
keep their order inside a partition, and the same RDD gives the same layout.
"""

import itertools
from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self, TypeVar

import numpy as np
from pydantic import BeforeValidator, Field, SerializeAsAny

from hvdspark.config import Configuration, Kind, rebuild
from hvdspark.data.workers import use_driver_python, workers_explained
from hvdspark.errors import ConfigurationError

if TYPE_CHECKING:
    from pyspark import RDD

__all__ = [
    "AnyRepartitioner",
    "DefaultRepartitioner",
    "EqualRepartitioner",
    "NoOpRepartitioner",
    "Repartition",
    "RepartitionStrategy",
    "Repartitioner",
    "equal_sizes",
    "lay_out",
    "partition_sizes",
    "repartition",
]

_Choice = TypeVar("_Choice", bound=StrEnum)


class Repartition(StrEnum):
    """When an RDD is given another layout."""

    NEVER = "never"
    ALWAYS = "always"
    NUM_PARTITIONS_WORKERS_DIFFERS = "num_partitions_workers_differs"

    def is_needed(self, num_partitions: int, num_workers: int) -> bool:
        """Tell whether an RDD of so many partitions is given another layout for so many workers."""
        if self is Repartition.NUM_PARTITIONS_WORKERS_DIFFERS:
            return num_partitions != num_workers
        return self is Repartition.ALWAYS


class RepartitionStrategy(StrEnum):
    """How objects are spread over partitions.

    ``spark_default``: Spark's own ``RDD.repartition``, which promises nothing of sizes. ``balanced``: sizes differ by
    one at most, and consecutive objects stay together. ``approximate_balanced``: only the surplus of partitions that
    are too large moves, object by object as a generator draws; less is sent than under ``balanced``, and sizes are
    about equal.
    """

    SPARK_DEFAULT = "spark_default"
    BALANCED = "balanced"
    APPROXIMATE_BALANCED = "approximate_balanced"


class Repartitioner(Kind):
    """Gives an RDD the partitions that tasks train on.

    Law: every object of the given RDD is in the returned one, once. To have an own one rebuilt from JSON, add its class
    to ``Repartitioner.known``.
    """

    known: ClassVar[list[type["Repartitioner"]]] = []
    """The classes that `from_json` and `from_yaml` of this class can make."""

    @abstractmethod
    def repartition(self, rdd: "RDD[Any]", min_objects_per_partition: int, num_executors: int) -> "RDD[Any]":
        """Return the same objects in other partitions, or the RDD itself where nothing is to be done.

        Parameters
        ----------
        rdd
            Objects of any kind.
        min_objects_per_partition
            How many a partition should have at least: those of a minibatch.
        num_executors
            How many workers there are.
        """

    @classmethod
    def _from_mapping(cls, options: Any) -> Self:
        if cls is not Repartitioner:
            return super()._from_mapping(options)
        made: Self = rebuild(options, cls.known)  # type: ignore[assignment]  # cls is the base, Self any of its classes
        return made


def _read_repartitioner(given: Any) -> Any:
    return rebuild(given, Repartitioner.known) if isinstance(given, dict) else given


AnyRepartitioner = Annotated[SerializeAsAny[Repartitioner], BeforeValidator(_read_repartitioner)]
"""The type of a configuration field that takes any repartitioner, also from JSON."""


class DefaultRepartitioner(Repartitioner):
    """As many partitions as there are minibatches, up to a limit; sizes differ by at most one.

    The number of executors does not matter: Spark balances many small tasks.

    Parameters
    ----------
    max_partitions
        The limit.
    """

    max_partitions: int = Field(default=5000, gt=0)

    def __init__(self, max_partitions: int = 5000) -> None:
        Configuration.__init__(self, max_partitions=max_partitions)

    def repartition(self, rdd: "RDD[Any]", min_objects_per_partition: int, num_executors: int) -> "RDD[Any]":
        """Make ``min(max_partitions, ceil(objects / min_objects_per_partition))`` partitions, but at least one."""
        _check_count("num_executors", num_executors)
        wanted = _check_count("min_objects_per_partition", min_objects_per_partition)
        sizes = partition_sizes(rdd)
        return _balanced(rdd, sizes, max(1, min(self.max_partitions, -(-sum(sizes) // wanted))))


class EqualRepartitioner(Repartitioner):
    """One partition for each executor; sizes differ by at most one."""

    def repartition(self, rdd: "RDD[Any]", min_objects_per_partition: int, num_executors: int) -> "RDD[Any]":
        """Make `num_executors` partitions, whatever `min_objects_per_partition` is."""
        _check_count("min_objects_per_partition", min_objects_per_partition)
        return _balanced(rdd, partition_sizes(rdd), _check_count("num_executors", num_executors))


class NoOpRepartitioner(Repartitioner):
    """Leaves an RDD as it is."""

    def repartition(self, rdd: "RDD[Any]", *_given: object, **_options: object) -> "RDD[Any]":
        """Return the RDD itself."""
        return rdd


Repartitioner.known += [DefaultRepartitioner, EqualRepartitioner, NoOpRepartitioner]


def repartition(
    rdd: "RDD[Any]",
    num_partitions: int,
    *,
    when: Repartition | str = Repartition.ALWAYS,
    strategy: RepartitionStrategy | str = RepartitionStrategy.BALANCED,
    seed: int = 0,
) -> "RDD[Any]":
    """Return the objects of an RDD in other partitions, one for each worker.

    Parameters
    ----------
    rdd
        Objects of any kind. ``balanced`` and ``approximate_balanced`` count them first, by a job of their own.
    num_partitions
        How many partitions are wanted.
    when
        Whether anything is to be done at all.
    strategy
        How objects are spread.
    seed
        Of the draws of ``approximate_balanced``.

    Raises
    ------
    ConfigurationError
        Where an option is out of range; the message names the known ones.
    """
    _check_count("num_partitions", num_partitions)
    when, strategy = _choice("when", Repartition, when), _choice("strategy", RepartitionStrategy, strategy)
    if not when.is_needed(rdd.getNumPartitions(), num_partitions):
        return rdd
    if strategy is RepartitionStrategy.SPARK_DEFAULT:
        return rdd.repartition(num_partitions)
    if strategy is RepartitionStrategy.BALANCED:
        return _balanced(rdd, partition_sizes(rdd), num_partitions)
    return _approximately_balanced(rdd, partition_sizes(rdd), num_partitions, seed)


def equal_sizes(total: int, num_parts: int) -> list[int]:
    """Return sizes that differ by at most one and add up to the total; the first ones are the larger ones."""
    size, larger = divmod(total, num_parts)
    return [size + 1] * larger + [size] * (num_parts - larger)


def partition_sizes(rdd: "RDD[Any]") -> list[int]:
    """Count the objects of each partition, by a job."""
    use_driver_python(rdd)
    with workers_explained():
        return rdd.mapPartitions(lambda objects: [sum(1 for _ in objects)]).collect()


def lay_out(
    rdd: "RDD[Any]", num_partitions: int, targets: Callable[[int, Iterable[Any]], Iterator[tuple[int, int, Any]]]
) -> "RDD[Any]":
    """Return the objects of an RDD where `targets` wants them.

    Parameters
    ----------
    rdd
        Objects of any kind.
    num_partitions
        Partitions of the result.
    targets
        ``(partition, its objects) -> (target partition, place, object)`` of each object; runs on the workers. In the
        target, objects stand by their places.
    """

    def keyed(partition: int, objects: Iterable[Any]) -> Iterator[tuple[tuple[int, int], Any]]:
        return (((target, place), each) for target, place, each in targets(partition, objects))

    moved = rdd.mapPartitionsWithIndex(keyed).repartitionAndSortWithinPartitions(num_partitions, lambda key: key[0])
    return moved.values()


def _balanced(rdd: "RDD[Any]", sizes: list[int], num_partitions: int) -> "RDD[Any]":
    wanted = equal_sizes(sum(sizes), num_partitions)
    if sorted(sizes, reverse=True) == wanted:
        return rdd
    starts = [0, *itertools.accumulate(sizes)]
    ends = list(itertools.accumulate(wanted))

    def targets(partition: int, objects: Iterable[Any]) -> Iterator[tuple[int, int, Any]]:
        for place, each in enumerate(objects, start=starts[partition]):
            # Spark may compute a partition again and find more objects than were counted: the last one takes them.
            yield min(bisect_right(ends, place), num_partitions - 1), place, each

    return lay_out(rdd, num_partitions, targets)


def _approximately_balanced(rdd: "RDD[Any]", sizes: list[int], num_partitions: int, seed: int) -> "RDD[Any]":
    starts = [0, *itertools.accumulate(sizes)]
    mean = sum(sizes) / num_partitions
    kept = [min(size, mean) for size in sizes[:num_partitions]] + [0.0] * (num_partitions - len(sizes))
    room = list(itertools.accumulate(mean - size for size in kept))

    def targets(partition: int, objects: Iterable[Any]) -> Iterator[tuple[int, int, Any]]:
        draw = np.random.default_rng([seed, partition])
        stays = kept[partition] / max(1, sizes[partition]) if partition < num_partitions else 0.0
        for place, each in enumerate(objects, start=starts[partition]):
            target = partition
            if draw.random() >= stays:
                target = min(bisect_right(room, draw.random() * room[-1]), num_partitions - 1)
            yield target, place, each

    return lay_out(rdd, num_partitions, targets)


def _check_count(name: str, value: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ConfigurationError(f"{name}: a whole number from 1 is needed, not {value!r}")
    return value


def _choice(name: str, kind: type[_Choice], value: _Choice | str) -> _Choice:
    try:
        return kind(value)
    except ValueError:
        raise ConfigurationError(f"{name}: one of {', '.join(kind)} is needed, not {value!r}") from None
