"""Looking at rows on their way: what is wrong with them, counted on the workers and told in one error on the driver."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from hvdspark.data.fields import Field
from hvdspark.data.problems import Problem, explain, gathered
from hvdspark.data.rows import Rows, differences
from hvdspark.errors import DataError

__all__ = ["Inspected", "Inspection", "check_fields", "check_problems"]

_NAMED_PARTITIONS = 3  # a message lists the first few partitions, not a thousand


@dataclass(frozen=True)
class Inspected:
    """What the rows of one partition were found to be.

    Parameters
    ----------
    partition
        Number of the Spark partition.
    num_rows
        How many rows there are.
    fields
        What they consist of; empty where there is none, or they are of no use.
    problems
        What is wrong with them, one entry a column and kind, counted over the whole partition.
    """

    partition: int
    num_rows: int = 0
    fields: tuple[Field, ...] = ()
    problems: tuple[Problem, ...] = ()

    def facts(self) -> dict[str, Any]:
        """Return it as JSON has it; `from_facts` takes it back."""
        return asdict(self)

    @classmethod
    def from_facts(cls, facts: dict[str, Any]) -> Self:
        """Make one of what `facts` returned."""
        fields = tuple(Field(**{**field, "shape": tuple(field["shape"])}) for field in facts["fields"])
        problems = tuple(Problem(**problem) for problem in facts["problems"])
        return cls(facts["partition"], facts["num_rows"], fields, problems)


class Inspection:
    """Looks at all rows of a partition, and lets the good ones pass until the first bad one."""

    def __init__(self) -> None:
        self._problems: list[tuple[int, Problem]] = []
        self._seen = 0
        self.fields: tuple[Field, ...] = ()

    def passing(self, source: Iterable[Rows]) -> Iterator[Rows]:
        """Yield rows that are of use, all with the same fields; after a bad one all others are still looked at."""
        for rows in source:
            found = list(rows.problems)
            if not found:
                self.fields = self.fields or rows.fields
                found = differences(self.fields, rows.fields, rows.num_rows)
            self._problems += [(self._seen, replace(each, place=each.place or rows.place)) for each in found]
            self._seen += rows.num_rows
            if not self._problems and rows.num_rows:
                yield rows

    @property
    def problems(self) -> list[Problem]:
        """What is wrong with the rows that were looked at."""
        return gathered(self._problems)

    def result(self, partition: int) -> Inspected:
        """Return what was found."""
        return Inspected(partition, self._seen, self.fields if self._seen else (), tuple(self.problems))


def check_problems(found: Iterable[Inspected], noun: str) -> None:
    """Say what is wrong with the rows of all partitions.

    Raises
    ------
    DataError
        One error: each column and kind, in how many rows, where, and the fix.
    """
    by_kind: dict[tuple[str, str], list[tuple[int, Problem]]] = {}
    for each in found:
        for problem in each.problems:
            by_kind.setdefault((problem.column, problem.kind), []).append((each.partition, problem))
    if not by_kind:
        return
    texts = []
    for places in by_kind.values():
        first_partition, first = places[0]
        named = [f"{problem.count} in partition {partition}" for partition, problem in places[:_NAMED_PARTITIONS]]
        if len(places) > _NAMED_PARTITIONS:
            named.append(f"the others in {len(places) - _NAMED_PARTITIONS} more partitions")
        where = ", ".join(named)
        if first.kind != "unreadable":
            where += f"; the first is row {first.first_row} of {first.place or f'partition {first_partition}'}"
        total = sum(problem.count for _, problem in places)
        texts.append(explain(Problem(first.column, first.kind, total, 0, first.detail), where, noun=noun))
    raise DataError("; ".join(texts))


def check_fields(found: Sequence[Inspected], noun: str) -> None:
    """Compare what the rows of all partitions consist of.

    Parameters
    ----------
    found
        Partitions that have rows, at least one.
    noun
        What messages call a field.

    Raises
    ------
    DataError
        One error for the first field that differs.
    """
    first = found[0]
    odd = [(other, problem) for other in found for problem in differences(first.fields, other.fields, other.num_rows)]
    if not odd:
        return
    result, problem = odd[0]
    count = sum(each.count for _, each in odd if (each.column, each.kind) == (problem.column, problem.kind))
    ours, _, theirs = problem.detail.removesuffix(" values").partition(" and ")
    where = f"{ours} in partition {first.partition}, {theirs} in partition {result.partition}"
    if problem.kind == "parts":
        where = f"partitions {first.partition} and {result.partition} differ"
    raise DataError(explain(replace(problem, count=count), where, noun=noun))
