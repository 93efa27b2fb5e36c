"""A network over Arrow batches, on a worker: what evaluation and prediction both do with every partition."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from hvdspark.data import ColumnPlan, ColumnReader, Rows, natural
from hvdspark.masters import Parcel
from hvdspark.network import Network

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["outputs"]


def outputs(
    parcel: Parcel, plan: ColumnPlan, batches: Iterator[pa.RecordBatch], batch_size: int
) -> Iterator[tuple[pa.RecordBatch, torch.Tensor, Any]]:
    """Run a network over the Arrow batches of a partition, in evaluation mode and without gradients.

    Parameters
    ----------
    parcel : Parcel
        The network.
    plan : ColumnPlan
        What the batches hold.
    batches : iterator of RecordBatch
        As Spark hands them over.
    batch_size : int
        Rows that go through the network at a time.

    Yields
    ------
    tuple
        The Arrow batch; what the network says of its rows (`[b, ...]`, probabilities or values); labels, if planned.
    """
    network = parcel.open()
    network.module.eval()
    reader = ColumnReader(plan)
    for batch in batches:
        if batch.num_rows:
            rows = reader.read(batch).checked()
            yield batch, _run(network, rows, batch_size), natural(rows.fields, "label", rows.arrays)


def _run(network: Network, rows: Rows, batch_size: int) -> torch.Tensor:
    parts = []
    with torch.inference_mode():
        for start in range(0, rows.num_rows, batch_size):
            # from_numpy would warn of Arrow's read-only memory, which a module may not write to: each part is copied
            tensors = [torch.tensor(array[start : start + batch_size]) for array in rows.arrays]
            features = natural(rows.fields, "feature", tensors)
            parts.append(network.readable(network.emit(features, natural(rows.fields, "features_mask", tensors))))
        return torch.cat(parts)
