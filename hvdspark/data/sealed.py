"""Tensor files that say what they hold and know the checksum of their own content."""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hvdspark import storage
from hvdspark.errors import StorageError, UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["read_sealed", "write_sealed"]

_DTYPES = {"bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64"}
_DTYPES |= {"float16", "bfloat16", "float32", "float64", "complex64"}
_DTYPES |= {"float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"}


def write_sealed(
    path: str | os.PathLike[str], kind: str, parts: Mapping[str, Any], facts: Mapping[str, Any] | None = None
) -> str:
    """Write arrays or tensors with what they are, all or nothing, and return the SHA-256 of the file.

    Parameters
    ----------
    path
        Path or URL; its folder must be there.
    kind
        What the file is, as the class that reads it.
    parts
        Arrays or tensors by name.
    facts
        What is kept beside them, as JSON has it.

    Raises
    ------
    UnsupportedError
        Where a file cannot hold a dtype.
    StorageError
        Where the file cannot be written.
    """
    for name, part in parts.items():
        swapped = isinstance(part, np.ndarray) and not part.dtype.isnative
        if swapped or _dtype_name(part) not in _DTYPES:
            raise UnsupportedError(f"{kind}.{name}: {part.dtype} cannot be kept in a file: convert it first")
    text = json.dumps(dict(facts or {}), sort_keys=True, allow_nan=False)
    seal = {"kind": _full(kind), "facts": text, "content_sha256": _digest(kind, text, parts)}
    return storage.write_tensors(path, parts, seal)


def read_sealed(
    path: str | os.PathLike[str],
    kind: str,
    *,
    framework: Literal["numpy", "torch"] = "numpy",
    expected_checksum: str | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the arrays (or tensors) and the facts that `write_sealed` wrote.

    Raises
    ------
    StorageError
        Where the file cannot be read, holds something else than this kind, or has changed since.
    """
    parts: dict[str, Any]
    if framework == "torch":
        parts, seal = storage.read_tensors(path, framework="torch", expected_checksum=expected_checksum)
    else:
        parts, seal = storage.read_tensors(path, expected_checksum=expected_checksum)
    if seal.get("kind") != _full(kind):
        held = f", but a {seal['kind'].removeprefix(_full(''))}" if "kind" in seal else ""
        raise StorageError(f"{path} holds no {kind}{held}: it was not written by {kind}.save")
    if _digest(kind, seal.get("facts", ""), parts) != seal.get("content_sha256"):
        raise StorageError(f"{path} has changed since it was saved, or is damaged")
    facts: dict[str, Any] = json.loads(seal["facts"])
    return parts, facts


def _full(kind: str) -> str:
    return f"hvdspark.{kind}"


def _dtype_name(part: Any) -> str:
    return str(part.dtype).removeprefix("torch.")


def _digest(kind: str, facts: str, parts: Mapping[str, Any]) -> str:
    """Hash what is told and what is held; an array and the tensor of its numbers count as the same."""
    digest = hashlib.sha256(json.dumps([kind, facts]).encode())
    for name, part in sorted(parts.items()):
        digest.update(json.dumps([name, _dtype_name(part), list(part.shape)]).encode())
        digest.update(np.ascontiguousarray(part).data if isinstance(part, np.ndarray) else _tensor_bytes(part).data)
    return digest.hexdigest()


def _tensor_bytes(tensor: Any) -> "NDArray[np.uint8]":
    import torch

    # As bytes, for numpy has no bfloat16.
    array: NDArray[np.uint8] = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return array
