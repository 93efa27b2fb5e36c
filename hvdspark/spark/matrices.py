"""Predictions of what the driver holds: matrices, tensors and Spark's vectors give the same kind back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hvdspark.data import Field, Rows
from hvdspark.data.values import as_stored
from hvdspark.errors import DataError, UnsupportedError
from hvdspark.masters import copy_on, device_of, forget, task_device
from hvdspark.network import Network, check_inputs
from hvdspark.spark.batches import said
from hvdspark.spark.heads import gathered
from hvdspark.spark.passes import check_batch_size

__all__ = ["is_matrix", "predict_inputs", "predict_matrix"]


def is_matrix(data: Any) -> bool:
    """Tell whether something is predicted where it is."""
    return isinstance(data, np.ndarray | torch.Tensor) or _spark_kind(data) != ""


def predict_matrix(network: Network, data: Any, batch_size: int, *, device: str) -> Any:
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
    device
        Where it computes, as of `task_device`. Under "auto" one batch alone goes where the network lies: to bring that
        to a GPU for each call would take longer than it saves.

    Returns
    -------
    ndarray, tensor, DenseVector or DenseMatrix
        What the network says, probabilities or values: of the same kind, without an axis of examples for one example.

    Raises
    ------
    DataError
        If there is no example, or one holds NaN or infinity.
    """
    (found,) = _run(network, {"": data}, batch_size, several=False, device=device)
    return _as_given(data, found)


def predict_inputs(network: Network, data: Any, batch_size: int, names: Sequence[str], *, device: str) -> Any:
    """Run a network with several inputs or outputs over examples in memory, in this process.

    Parameters
    ----------
    network, batch_size, device
        As of `predict_matrix`.
    data
        One input as of `predict_matrix`; a list or tuple of several in order, a dict of several by argument.
    names
        Of the outputs.

    Returns
    -------
    ndarray, tensor, DenseVector or DenseMatrix, or a list, tuple or dict of them
        Of the kind of the first input; with several outputs in the form of the inputs, a dict by the names of outputs.

    Raises
    ------
    ConfigurationError
        If the module does not take such inputs.
    DataError
        If inputs do not have equally many examples, or as of `predict_matrix`.
    """
    if isinstance(data, Mapping):
        inputs = dict(data)
    else:
        inputs = dict(enumerate(data)) if isinstance(data, list | tuple) else {"": data}
    if not inputs:
        raise DataError(f"predict: the {type(data).__name__} of inputs is empty")
    check_inputs(network.own_module, [name if isinstance(name, str) else "" for name in inputs], "predict")
    found = _run(network, inputs, batch_size, several=True, device=device)
    first = next(iter(inputs.values()))
    return gathered(data, [_as_given(first, each) for each in found], names)


def _run(
    network: Network, inputs: dict[Any, Any], batch_size: int, *, several: bool, device: str
) -> list[torch.Tensor]:
    check_batch_size(batch_size)
    arrays = {name: _array(data) for name, data in inputs.items()}
    shapes = [list(array.shape) for array in arrays.values()]
    single = all(len(shape) == 1 for shape in shapes)
    if not single and (any(len(shape) < 2 for shape in shapes) or len({shape[0] for shape in shapes}) > 1):
        raise DataError(f"predict: inputs of shapes {shapes} are not [n, ...] with the same n, nor one example each")
    fields, stored = [], []
    for number, (name, array) in enumerate(arrays.items()):
        values = as_stored(array[None] if single else array)
        if not values.size or not np.isfinite(values).all():
            what = "no number" if not values.size else "NaN or infinity"
            where = "" if name == "" else f" of input {name!r}"
            raise DataError(
                f"predict: there is {what} in the {type(inputs[name]).__name__}{where} of shape {list(array.shape)}"
            )
        dtype: Any = values.dtype.name
        argument = name if isinstance(name, str) else ""
        fields.append(Field("feature", number, argument or "features", dtype, values.shape[1:], argument))
        stored.append(values)
    rows = Rows(len(stored[0]), tuple(fields), tuple(stored))
    lies_on = device_of(network)
    asked = lies_on if device == "auto" and rows.num_rows <= batch_size else task_device(device)
    how: dict[str, Any] = {"batch_size": batch_size, "several": several}
    found = _said(network, rows, **how) if asked == lies_on else _said_on(asked, network, rows, **how)
    return [each[0] if single else each for each in found]


def _said_on(device: torch.device, network: Network, rows: Rows, **how: Any) -> tuple[torch.Tensor, ...]:
    """Ask a copy on a device, and leave nothing there, whether it answers or fails."""
    try:
        found = _said(copy_on(network, device), rows, **how)
    except Exception as error:
        forget(error)
        raise
    forget()
    return found


def _said(network: Network, rows: Rows, *, batch_size: int, several: bool) -> tuple[torch.Tensor, ...]:
    modes = [(module, module.training) for module in network.module.modules()]
    network.module.eval()
    try:
        return said(network, [rows], batch_size, several=several)
    finally:
        for module, was_training in modes:  # one by one: a part may be frozen in evaluation mode
            module.training = was_training


def _array(data: Any) -> NDArray[Any]:
    if not is_matrix(data):
        raise UnsupportedError(
            f"predict: an input is an array, a tensor or Spark's, and this is a {type(data).__name__}"
        )
    array: NDArray[Any] = data.toArray() if _spark_kind(data) else data
    return data.detach().cpu().numpy() if isinstance(data, torch.Tensor) else array


def _as_given(data: Any, found: torch.Tensor) -> Any:
    if isinstance(data, torch.Tensor):
        return found.to(data.device, copy=True)  # outside inference mode: an ordinary tensor
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


def _spark_kind(data: Any) -> str:
    """Return "vector" or "matrix" for those of Spark, else nothing."""
    from pyspark.ml.linalg import Matrix, Vector
    from pyspark.mllib.linalg import Matrix as OldMatrix
    from pyspark.mllib.linalg import Vector as OldVector

    if isinstance(data, Vector | OldVector):
        return "vector"
    return "matrix" if isinstance(data, Matrix | OldMatrix) else ""
