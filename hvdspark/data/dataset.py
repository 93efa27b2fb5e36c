"""Examples held in memory: what users hand in as an RDD and keep in files."""

import hashlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np

from hvdspark import storage
from hvdspark.errors import DataError, StorageError, UnsupportedError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = ["DataSet"]

_KIND = "hvdspark.DataSet"


@dataclass(frozen=True, eq=False)
class DataSet:
    """Features and labels of some examples, and masks that say which parts of a sequence count.

    All are numpy arrays or all are torch tensors; the first axis is the example. Nothing is copied: the arrays stay the
    caller's, and nobody here writes to them.

    Parameters
    ----------
    features
        `[n, ...]`.
    labels
        `[n, ...]`; None: unlabelled.
    features_mask, labels_mask
        `[n, ...]`; None: everything counts.

    Raises
    ------
    DataError
        Where the first axes differ in length, or there is none.
    UnsupportedError
        Where something is neither an array nor a tensor, or arrays and tensors are mixed.
    """

    features: "NDArray[Any] | torch.Tensor"
    labels: "NDArray[Any] | torch.Tensor | None" = None
    features_mask: "NDArray[Any] | torch.Tensor | None" = None
    labels_mask: "NDArray[Any] | torch.Tensor | None" = None

    def __post_init__(self) -> None:
        parts = self._parts()
        if "features" not in parts:
            raise DataError("DataSet: features are needed")
        kinds = {name: _framework(name, part) for name, part in parts.items()}
        if len(set(kinds.values())) > 1:
            listed = ", ".join(f"{name} is {kind}" for name, kind in kinds.items())
            raise UnsupportedError(f"DataSet: give numpy arrays only or torch tensors only ({listed})")
        for name, part in parts.items():
            if part.ndim == 0:
                raise DataError(f"DataSet.{name}: a single number has no axis of examples: reshape it to [1, ...]")
            if len(part) != len(self.features):
                raise DataError(f"DataSet: features are {len(self.features)} examples, {name} are {len(part)}")

    def __len__(self) -> int:
        return len(self.features)

    def split(self, n: int) -> list["DataSet"]:
        """Return consecutive pieces of `n` examples each, the last one shorter; they share this one's memory."""
        if n < 1:
            raise DataError(f"DataSet.split: pieces of at least 1 example are needed, not {n}")
        starts = range(0, len(self), n)
        return [DataSet(**{name: part[i : i + n] for name, part in self._parts().items()}) for i in starts]

    @staticmethod
    def merge(pieces: Sequence["DataSet"]) -> "DataSet":
        """Return one DataSet of all examples, in order: what `split` took apart.

        Raises
        ------
        DataError
            Where there is no piece, some have labels or masks and others not, or shapes of examples or dtypes differ.
        """
        if not pieces:
            raise DataError("DataSet.merge: there is nothing to merge")
        parts = [piece._parts() for piece in pieces]
        merged = {}
        for name in sorted(set().union(*parts)):
            if not all(name in part for part in parts):
                raise DataError(f"DataSet.merge: some pieces have {name} and others not")
            kinds = {(tuple(part[name].shape[1:]), str(part[name].dtype)) for part in parts}
            if len(kinds) > 1:
                listed = " and ".join(f"{list(shape)} {dtype}" for shape, dtype in sorted(kinds))
                raise DataError(f"DataSet.merge: {name} of one example differ: {listed}")
            merged[name] = _concatenate([part[name] for part in parts])
        return DataSet(**merged)

    def save(self, path: str | os.PathLike[str]) -> str:
        """Write a safetensors file that knows its own content's checksum; return the SHA-256 of the file."""
        parts = self._parts()
        for name, part in parts.items():
            if isinstance(part, np.ndarray) and (not part.dtype.isnative or part.dtype.name == "complex128"):
                raise UnsupportedError(
                    f"DataSet.{name}: {part.dtype} cannot be kept in a file: convert it with .astype"
                )
        kind = {"kind": _KIND, "framework": _framework("features", self.features)}
        return storage.write_tensors(path, parts, {**kind, "content_sha256": _digest(parts)})

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, expected_checksum: str | None = None) -> "DataSet":
        """Read what `save` wrote, as arrays or tensors as it was.

        Raises
        ------
        StorageError
            Where the file cannot be read, is no DataSet, or has changed.
        """
        # Read as tensors in any case: numpy has no bfloat16, and a tensor gives its memory to an array for nothing.
        tensors, metadata = storage.read_tensors(path, framework="torch", expected_checksum=expected_checksum)
        names = {field.name for field in fields(cls)}
        if metadata.get("kind") != _KIND or not tensors.keys() <= names or "features" not in tensors:
            raise StorageError(f"{path} holds no DataSet: it was not written by DataSet.save")
        is_numpy = metadata.get("framework") == "numpy"
        parts = {name: tensor.numpy() if is_numpy else tensor for name, tensor in tensors.items()}
        if _digest(parts) != metadata.get("content_sha256"):
            raise StorageError(f"{path} has changed since it was saved, or is damaged")
        return cls(**parts)

    def _parts(self) -> dict[str, Any]:
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: part for name, part in parts.items() if part is not None}


def _framework(name: str, part: Any) -> str:
    if isinstance(part, np.ndarray) and part.dtype.kind in "biufc":
        return "numpy"
    torch = sys.modules.get("torch")  # where it was never imported, nothing is a tensor
    if torch is not None and isinstance(part, torch.Tensor):
        return "torch"
    given = f"an array of {part.dtype}" if isinstance(part, np.ndarray) else type(part).__name__
    raise UnsupportedError(f"DataSet.{name}: a numpy array of numbers or a torch tensor is needed, not {given}")


def _concatenate(parts: list[Any]) -> Any:
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    import torch

    return torch.cat(parts)


def _digest(parts: dict[str, Any]) -> str:
    digest = hashlib.sha256()
    for name, part in sorted(parts.items()):
        digest.update(f"{name} {part.dtype} {list(part.shape)};".encode())
        array = np.ascontiguousarray(part) if isinstance(part, np.ndarray) else _tensor_bytes(part)
        digest.update(array.data)
    return digest.hexdigest()


def _tensor_bytes(tensor: "torch.Tensor") -> "NDArray[np.uint8]":
    import torch

    # As bytes, for numpy has no bfloat16.
    array: NDArray[np.uint8] = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return array
