"""What is wrong with the rows of a source as a whole, told from what became of its partitions: one error for all."""

from collections.abc import Sequence
from typing import Protocol

from hvdspark.data.fields import Field
from hvdspark.data.inspection import Inspected, check_fields, check_problems
from hvdspark.data.problems import Problem
from hvdspark.errors import DataError, StorageError

__all__ = ["PartFacts", "check_parts", "check_same_fields"]


class PartFacts(Protocol):
    """What is known of the rows of one partition in one place (0: to train on, 1: held back for validation)."""

    @property
    def partition(self) -> int:
        """Number of the partition."""
        ...

    @property
    def place(self) -> int:
        """Where its rows went."""
        ...

    @property
    def num_rows(self) -> int:
        """How many they are."""
        ...

    @property
    def fields(self) -> tuple[Field, ...]:
        """What a row consists of."""
        ...

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What cannot be trained on."""
        ...

    @property
    def storage_error(self) -> str:
        """Why the rows could not be written."""
        ...


def check_parts(results: Sequence[PartFacts], name: str, noun: str, num_places: int) -> None:
    """Make sure that rows can be trained on.

    Parameters
    ----------
    results
        Of those partitions that have rows or problems, ordered by place and partition.
    name, noun
        What messages call the source, and one of its fields.
    num_places
        2 where rows are held back for validation.

    Raises
    ------
    StorageError
        Where rows could not be written.
    DataError
        Where there is no row, or rows cannot be trained on: one error for the whole source.
    """
    failed = next((result for result in results if result.storage_error), None)
    if failed is not None:
        raise StorageError(f"partition {failed.partition} was not written: {failed.storage_error}")
    found = [Inspected(each.partition, each.num_rows, each.fields, each.problems) for each in results]
    check_problems(found, noun)
    if not results:
        raise DataError(f"{name} is empty: there is no row to train on. Look at the filters and joins before it")
    check_fields(found, noun)
    for place in range(num_places):
        if not any(result.place == place for result in results):
            why = "false: no row is left to train on" if place == 0 else "true: no row is left to validate with"
            raise DataError(f"the validation column of {name} is never {why}")


def check_same_fields(train: Sequence[Field], validation: Sequence[Field]) -> None:
    """Make sure that rows to validate with have the features and labels of those to train on.

    Raises
    ------
    DataError
        With the first field that differs.
    """
    for role in ("feature", "label"):
        ours, theirs = ([field for field in fields if field.role == role] for fields in (train, validation))
        if len(ours) != len(theirs):
            raise DataError(f"validation data have {len(theirs)} {role} arrays a row, training data {len(ours)}")
        for one, other in zip(ours, theirs, strict=True):
            if (one.shape, one.dtype) != (other.shape, other.dtype):
                raise DataError(
                    f"{other.name!r} of the validation data is {list(other.shape)} {other.dtype} a row, {one.name!r} "
                    f"of the training data {list(one.shape)} {one.dtype}: give both the same"
                )
