"""Tensors in safetensors files: no pickle, checked on reading."""

import json
import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

from hvdspark.errors import StorageError
from hvdspark.storage.files import AtomicWriter, open_reader, parse_json, read_bytes
from hvdspark.storage.paths import storage_errors

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = ["read_metadata", "read_tensors", "write_tensors"]

_MAX_HEADER_BYTES = 100_000_000  # what safetensors itself accepts


@overload
def read_tensors(
    path: str | os.PathLike[str], *, framework: Literal["numpy"] = "numpy", expected_checksum: str | None = None
) -> "tuple[dict[str, NDArray[Any]], dict[str, str]]": ...
@overload
def read_tensors(
    path: str | os.PathLike[str], *, framework: Literal["torch"], expected_checksum: str | None = None
) -> "tuple[dict[str, torch.Tensor], dict[str, str]]": ...
def read_tensors(
    path: str | os.PathLike[str],
    *,
    framework: Literal["numpy", "torch"] = "numpy",
    expected_checksum: str | None = None,
) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file.

    Parameters
    ----------
    path
        Path or URL of the file. It is read once: what is checked is what is returned.
    framework
        Whether arrays or tensors are wanted. bfloat16 exists as tensors only.
    expected_checksum
        The SHA-256 that `write_tensors` returned; None: not checked.

    Returns
    -------
    tensors, metadata
        Writable arrays or CPU tensors that the caller owns, and the text values stored beside them.

    Raises
    ------
    StorageError
        Where the file cannot be read, is no safetensors file, or is not the expected one.
    """
    from safetensors import SafetensorError

    data = read_bytes(path, expected_checksum=expected_checksum)
    try:
        if framework == "torch":
            from safetensors.torch import load as load_torch

            tensors: dict[str, Any] = dict(load_torch(data))
        else:
            from safetensors.numpy import load as load_numpy

            tensors = dict(load_numpy(data))
    except SafetensorError as error:
        raise StorageError(f"{path} is no whole safetensors file: {error}") from error
    except KeyError as error:
        raise StorageError(f"{path}: numpy has no dtype {error}: read it with framework='torch'") from error
    header, _ = _split_safetensors(data)
    return tensors, dict(header.get("__metadata__") or {})


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return the text values stored beside the tensors of a safetensors file; no tensor is read.

    Raises
    ------
    StorageError
        Where the file cannot be read, or is no safetensors file.
    """
    with open_reader(path) as file, storage_errors("read", path):
        length = int.from_bytes(file.read(8), "little")
        if length > _MAX_HEADER_BYTES:
            raise StorageError(f"{path} is no whole safetensors file: its header would be {length} bytes long")
        header = parse_json(file.read(length), f"the header of {path}")
    found = header.get("__metadata__") if isinstance(header, dict) else None
    return dict(found) if isinstance(found, dict) else {}


def write_tensors(
    path: str | os.PathLike[str],
    tensors: "Mapping[str, NDArray[Any] | torch.Tensor]",
    metadata: Mapping[str, str] | None = None,
) -> str:
    """Write arrays or tensors as one safetensors file, all or nothing, and return the file's SHA-256.

    Equal contents give equal bytes. Tensors are copied to the CPU where they are elsewhere; two names for the same
    memory are written twice.

    Raises
    ------
    StorageError
        Where the file cannot be written, or a metadata key or value is not text.
    """
    wrong = sorted(str(key) for key, value in (metadata or {}).items() if not isinstance(value, str))
    if wrong:
        raise StorageError(f"{path}: safetensors metadata is text only; turn {', '.join(wrong)} into str")
    header, body = _split_safetensors(_serialize(tensors))
    if metadata:
        header["__metadata__"] = dict(sorted(metadata.items()))  # safetensors itself writes them in a random order
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the format wants the first tensor aligned to 8 bytes
    with AtomicWriter(path) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.write(body)
    return file.checksum


def _split_safetensors(data: bytes) -> tuple[dict[str, Any], memoryview]:
    # The format: 8 bytes little-endian length, a JSON header of that length, the tensors' bytes.
    length = int.from_bytes(data[:8], "little")
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    return header, memoryview(data)[8 + length :]


def _serialize(tensors: "Mapping[str, NDArray[Any] | torch.Tensor]") -> bytes:
    torch = sys.modules.get("torch")  # where it was never imported, no value is a tensor
    if torch is None or not any(isinstance(value, torch.Tensor) for value in tensors.values()):
        from safetensors.numpy import save as save_numpy

        return bytes(save_numpy({name: _contiguous(value) for name, value in tensors.items()}))
    from safetensors.torch import save as save_torch

    ready, memory = {}, set()
    for name, value in tensors.items():
        tensor = value.detach().cpu() if isinstance(value, torch.Tensor) else torch.tensor(value)
        tensor = tensor.contiguous()
        if tensor.untyped_storage().data_ptr() in memory:
            tensor = tensor.clone()  # safetensors refuses two names for one memory: tied weights, views of one buffer
        memory.add(tensor.untyped_storage().data_ptr())
        ready[name] = tensor
    return bytes(save_torch(ready))


def _contiguous(array: Any) -> "NDArray[Any]":
    import numpy as np

    return np.asarray(array, order="C")  # ascontiguousarray would make a scalar a vector
