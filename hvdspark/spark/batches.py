"""A network over Arrow batches, on a worker: what prediction and scoring do with every partition of a DataFrame."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from hvdspark.data import ColumnPlan, ColumnReader, Rows
from hvdspark.masters import Parcel
from hvdspark.network import Network
from hvdspark.spark.passes import emitted, read_outputs

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["outputs", "readable_rows", "said"]


def readable_rows(plan: ColumnPlan, batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[pa.RecordBatch, Rows]]:
    """Yield the Arrow batches that have rows, with what the rows hold.

    Raises
    ------
    DataError
        If rows cannot be read.
    """
    reader = ColumnReader(plan)
    for batch in batches:
        if batch.num_rows:
            yield batch, reader.read(batch).checked()


def outputs(
    parcel: Parcel, plan: ColumnPlan, batches: Iterator[pa.RecordBatch], batch_size: int, *, several: bool
) -> Iterator[tuple[pa.RecordBatch, tuple[torch.Tensor, ...]]]:
    """Run a network over the Arrow batches of a partition, in evaluation mode and without gradients.

    Parameters
    ----------
    parcel : Parcel
        The network; this process's only copy of it serves.
    plan : ColumnPlan
        What the batches hold.
    batches : iterator of RecordBatch
        As Spark hands them over.
    batch_size : int
        Rows that go through the network at a time.
    several : bool
        Whether several outputs are understood.

    Yields
    ------
    tuple
        The Arrow batch, and what each output says of its rows (`[b, ...]`, probabilities or values).
    """
    network = parcel.shared()
    for batch, rows in readable_rows(plan, batches):
        yield batch, said(network, [rows], batch_size, several=several)


def said(network: Network, rows: Iterable[Rows], batch_size: int, *, several: bool) -> tuple[torch.Tensor, ...]:
    """Return what each output of a network says of some rows (`[b, ...]`, probabilities or values)."""
    parts = []
    for part in emitted(network, rows, batch_size):  # a comprehension's frame would hold the network after an error
        parts.append(read_outputs(network, part.output, several=several))  # noqa: PERF401
    return tuple(torch.cat(each) for each in zip(*parts, strict=True))
