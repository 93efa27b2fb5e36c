"""How the rows of a source come to ranks that are tasks of one barrier stage: partitions of a DataFrame, read there."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from hvdspark.data.rows import Rows

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

__all__ = ["Handover", "PartitionReader"]


@dataclass(frozen=True)
class PartitionReader:
    """Makes rows of what arrives in a task. It travels to the ranks.

    Parameters
    ----------
    read
        Arrow batches of one partition -> its rows, or what is wrong with them.
    name, noun
        What messages call the source, and one of its fields.
    has_flags
        Whether rows say which of them are held back for validation.
    """

    read: Callable[[Iterable[Any]], Iterable[Rows]]
    name: str
    noun: str = "array"
    has_flags: bool = False


class Handover(NamedTuple):
    """A DataFrame whose partitions are those of the ranks, and what reads them."""

    frame: "DataFrame"
    reader: PartitionReader
