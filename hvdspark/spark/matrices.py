"""Predictions of what the driver holds: matrices, tensors and Spark's vectors give the same kind back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from hvdspark.data import Field, Rows
from hvdspark.data.values import as_stored
from hvdspark.errors import DataError
from hvdspark.network import Network
from hvdspark.spark.passes import check_batch_size, emitted, read_output

__all__ = ["is_matrix", "predict_matrix"]


def is_matrix(data: Any) -> bool:
    """Tell whether something is predicted where it is."""
    return isinstance(data, np.ndarray | torch.Tensor) or _spark_kind(data) != ""


def predict_matrix(network: Network, data: Any, batch_size: int) -> Any:
    """Run a network over examples in memory, in this process.

    Parameters
    ----------
    network
        It is put in evaluation mode meanwhile.
    data
        An array or tensor `[n, ...]`, or `[width]`: one example; a vector of pyspark.ml or pyspark.mllib: one example;
        a matrix of theirs: an example a row.
    batch_size
        Examples that go through the network at a time.

    Returns
    -------
    ndarray, tensor, DenseVector or DenseMatrix
        What the network says, probabilities or values: of the same kind, without an axis of examples for one example.

    Raises
    ------
    DataError
        If there is no example, or one holds NaN or infinity.
    """
    check_batch_size(batch_size)
    given = data.toArray() if _spark_kind(data) else data.detach().cpu().numpy() if _is_tensor(data) else data
    single = given.ndim == 1
    stored = as_stored(given[None] if single else given)
    if not stored.size or not np.isfinite(stored).all():
        what = "no number" if not stored.size else "NaN or infinity"
        raise DataError(f"predict: there is {what} in the {type(data).__name__} of shape {list(given.shape)}")
    dtype: Any = stored.dtype.name
    rows = Rows(len(stored), (Field("feature", 0, "features", dtype, stored.shape[1:]),), (stored,))
    modes = [(module, module.training) for module in network.module.modules()]
    network.module.eval()
    try:
        found = torch.cat([read_output(network, batch.output) for batch in emitted(network, [rows], batch_size)])
    finally:
        for module, was_training in modes:  # one by one: a part may be frozen in evaluation mode
            module.training = was_training
    return _as_given(data, found[0] if single else found)


def _as_given(data: Any, found: torch.Tensor) -> Any:
    if isinstance(data, torch.Tensor):
        return found.clone()  # outside inference mode: an ordinary tensor
    array = found.cpu().numpy()
    kind = _spark_kind(data)
    if not kind:
        return array
    from pyspark.ml import linalg as new
    from pyspark.mllib import linalg as old

    linalg: Any = old if ".mllib." in type(data).__module__ else new
    values = array.astype(np.float64)
    if kind == "vector":
        return linalg.DenseVector(values.reshape(-1))
    matrix = values.reshape(len(values), -1)
    return linalg.DenseMatrix(*matrix.shape, matrix.reshape(-1, order="F"))


def _is_tensor(data: Any) -> bool:
    return isinstance(data, torch.Tensor)


def _spark_kind(data: Any) -> str:
    """Return "vector" or "matrix" for those of Spark, else nothing."""
    from pyspark.ml.linalg import Matrix, Vector
    from pyspark.mllib.linalg import Matrix as OldMatrix
    from pyspark.mllib.linalg import Vector as OldVector

    if isinstance(data, Vector | OldVector):
        return "vector"
    return "matrix" if isinstance(data, Matrix | OldMatrix) else ""
