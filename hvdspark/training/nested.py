"""Nested states, such as those of optimizers, as JSON text beside flat tensors; and back, with every type and bit.

What stands in a state is a tensor, a NumPy array or number, None, a bool, int, float or str, or a list, tuple, dict,
`collections.OrderedDict` or `collections.Counter` of them. Keys of dicts keep their types and order; nothing is
pickled.
"""

from __future__ import annotations

import json
import math
from collections import Counter, OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from hvdspark.errors import StorageError, UnsupportedError

__all__ = ["flatten", "rebuild"]

# Each stands in JSON as an object with one key, its name here; a JSON list is a list.
_SEQUENCES: dict[str, type] = {"tuple": tuple}
_MAPPINGS: dict[str, type] = {"dict": dict, "ordered": OrderedDict, "counter": Counter}
_NUMPY_KINDS = "biufc"  # not objects, texts or dates


def flatten(state: Any, what: str = "the state") -> tuple[dict[str, torch.Tensor], str]:
    """Take a state apart.

    Parameters
    ----------
    state
        As told above. Tensors are those of the state, not copies.
    what : str
        What an error calls it.

    Returns
    -------
    tensors, structure
        Tensors (and arrays, as tensors) by number, and the JSON text that `rebuild` puts them together by.

    Raises
    ------
    UnsupportedError
        If something else stands in it; the message says where.
    """
    tensors: dict[str, torch.Tensor] = {}
    return tensors, json.dumps(_taken_apart(state, tensors, what), allow_nan=False)


def rebuild(tensors: Mapping[str, torch.Tensor], structure: str) -> Any:
    """Put a state together again, with CPU tensors where tensors of any device were.

    Raises
    ------
    StorageError
        If the text is none that `flatten` makes, or a tensor is missing.
    """
    try:
        return _put_together(json.loads(structure), tensors)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StorageError(f"a state cannot be put together: {type(error).__name__}: {error}") from error


def _taken_apart(value: Any, tensors: dict[str, torch.Tensor], where: str) -> Any:
    kind = type(value)
    if value is None or kind in (bool, int, str):
        return value
    if kind is float:
        return value if math.isfinite(value) else {"float": repr(value)}  # JSON has no NaN and no infinity
    if kind is list:
        return [_taken_apart(each, tensors, f"{where}[{i}]") for i, each in enumerate(value)]
    for name, sequence in _SEQUENCES.items():
        if kind is sequence:
            return {name: [_taken_apart(each, tensors, f"{where}[{i}]") for i, each in enumerate(value)]}
    for name, mapping in _MAPPINGS.items():
        if kind is mapping:
            pairs = [
                [_taken_apart(key, tensors, f"a key of {where}"), _taken_apart(each, tensors, f"{where}[{key!r}]")]
                for key, each in value.items()
            ]
            return {name: pairs}
    name, tensor = _as_tensor(value, where)
    number = str(len(tensors))
    tensors[number] = tensor
    return {name: number}


def _as_tensor(value: Any, where: str) -> tuple[str, torch.Tensor]:
    if isinstance(value, torch.Tensor) and value.layout is torch.strided and not value.is_quantized:
        return "tensor", value.detach()
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in _NUMPY_KINDS:
        # a copy: arrays may be read-only, which tensors cannot be
        return ("array" if isinstance(value, np.ndarray) else "number"), torch.from_numpy(np.array(value, order="C"))
    raise UnsupportedError(
        f"{where} is a {type(value).__module__}.{type(value).__qualname__}, which a checkpoint cannot keep: tensors, "
        "arrays, numbers, texts, None, and lists, tuples and dicts of them can be kept"
    )


def _put_together(node: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if isinstance(node, list):
        return [_put_together(each, tensors) for each in node]
    if not isinstance(node, dict):
        return node
    ((name, content),) = node.items()
    if name == "float":
        return float(content)
    if name in _SEQUENCES:
        return _SEQUENCES[name](_put_together(each, tensors) for each in content)
    if name in _MAPPINGS:
        pairs = [(_put_together(key, tensors), _put_together(each, tensors)) for key, each in content]
        return _MAPPINGS[name](dict(pairs))
    if name not in ("tensor", "array", "number"):
        raise ValueError(f"{name!r} is no kind of value")
    tensor = tensors[content]
    if name == "tensor":
        return tensor
    return tensor.numpy() if name == "array" else tensor.numpy()[()]
