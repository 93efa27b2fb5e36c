"""A network over Arrow batches, on a worker: what evaluation and prediction both do with every partition."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from hvdspark.data import ColumnPlan
from hvdspark.masters import Parcel
from hvdspark.network import Network

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["outputs"]


def outputs(
    parcel: Parcel, plan: ColumnPlan, batches: Iterator[pa.RecordBatch], batch_size: int
) -> Iterator[tuple[pa.RecordBatch, torch.Tensor, NDArray[Any] | None]]:
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
    module = network.module.eval()
    width: int | None = None
    for batch in batches:
        if batch.num_rows == 0:
            continue
        features, labels = plan.convert(batch, feature_width=width)
        width = features.shape[1]
        yield batch, _run(network, module, features, batch_size), labels


def _run(
    network: Network, module: Callable[[torch.Tensor], torch.Tensor], features: NDArray[np.float32], batch_size: int
) -> torch.Tensor:
    with torch.inference_mode():
        # from_numpy would warn of Arrow's read-only memory, which a module may not write to: each part is copied
        parts = [
            network.readable(module(torch.tensor(features[start : start + batch_size])))
            for start in range(0, len(features), batch_size)
        ]
        return torch.cat(parts)
