"""What collections of examples have in common, whatever their arrays are called: cutting, mixing, joining, files."""

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np

from hvdspark.data.sealed import read_sealed, write_sealed
from hvdspark.errors import DataError, StorageError, UnsupportedError

__all__ = ["Examples", "SplitTestAndTrain", "check_parts", "framework_of"]


class SplitTestAndTrain(NamedTuple):
    """What `Examples.split_test_and_train` returns."""

    train: Any
    test: Any


class Examples(ABC):
    """Arrays or tensors by name, whose first axis is the example.

    All are numpy arrays or all are torch tensors. Nothing is copied: the arrays stay the caller's, and nobody here
    writes to them.

    Laws: `merge` of what `split` returned is the whole; `shuffle` keeps the rows of an example together; `load` returns
    the bits that `save` was given.
    """

    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """Return what there is, by name. The name of a mask holds the word ``mask``."""

    @classmethod
    @abstractmethod
    def from_parts(cls, parts: dict[str, Any]) -> Self:
        """Make one of what `parts` returned.

        Raises
        ------
        DataError
            Where there is a name too many, or one is missing.
        """

    def __len__(self) -> int:
        return len(next(iter(self.parts().values())))

    def split(self, n: int) -> list[Self]:
        """Return consecutive pieces of `n` examples each, the last one shorter; they share this one's memory."""
        if n < 1:
            raise DataError(f"{type(self).__name__}.split: pieces of at least 1 example are needed, not {n}")
        return [self._rows(slice(start, start + n)) for start in range(0, len(self), n)]

    def batch_by(self, n: int) -> list[Self]:
        """Return minibatches of `n` examples: `split` by the name that Deeplearning4j gives it."""
        return self.split(n)

    def split_test_and_train(self, train: float, *, seed: int | None = None) -> SplitTestAndTrain:
        """Return some examples to train on, and the others to test with.

        Parameters
        ----------
        train
            How many examples are to train on (a whole number), or their share (a float; rounded down, at least one).
        seed
            Mix the examples first; None: the first ones train.

        Raises
        ------
        DataError
            Where that leaves nothing to train on, or nothing to test with.
        """
        share = isinstance(train, float)
        num_train = max(1, int(train * len(self))) if share else int(train)
        if not 1 <= num_train < len(self) or (share and not 0 < train < 1):
            raise DataError(
                f"split_test_and_train: {train} of {len(self)} examples to train on leaves a part empty: "
                "give a share between 0 and 1, or a number from 1 to one less than there are"
            )
        mixed = self if seed is None else self.shuffle(seed)
        return SplitTestAndTrain(mixed._rows(slice(0, num_train)), mixed._rows(slice(num_train, None)))

    def shuffle(self, seed: int) -> Self:
        """Return the same examples in an order that the seed gives; the rows of all arrays and masks move together."""
        order = np.random.default_rng(seed).permutation(len(self))
        return self._rows(order)

    @classmethod
    def merge(cls, pieces: Sequence[Self]) -> Self:
        """Return all examples as one, in order: what `split` took apart.

        Where only some pieces have a mask, the others get one of ones: without a mask everything counts.

        Raises
        ------
        DataError
            Where there is no piece, some have labels and others not, or shapes of examples or dtypes differ.
        """
        if not pieces:
            raise DataError(f"{cls.__name__}.merge: there is nothing to merge")
        strange = [type(piece).__name__ for piece in pieces if not isinstance(piece, cls)]
        if strange:
            raise UnsupportedError(f"{cls.__name__}.merge: pieces must be of this class, not {strange[0]}")
        parts = [piece.parts() for piece in pieces]
        merged = {}
        for name in sorted(set().union(*parts)):
            given = [part[name] for part in parts if name in part]
            if len(given) < len(parts) and "mask" not in name:
                raise DataError(f"{cls.__name__}.merge: some pieces have {name} and others not")
            kinds = {(tuple(part.shape[1:]), str(part.dtype)) for part in given}
            if len(kinds) > 1:
                listed = " and ".join(f"{list(shape)} {dtype}" for shape, dtype in sorted(kinds))
                raise DataError(f"{cls.__name__}.merge: {name} of one example differ: {listed}")
            filled = [
                part[name] if name in part else _ones_like(given[0], len(piece))
                for part, piece in zip(parts, pieces, strict=True)
            ]
            merged[name] = _concatenate(filled)
        return cls.from_parts(merged)

    def save(self, path: str | os.PathLike[str]) -> str:
        """Write a safetensors file that knows its own content's checksum; return the SHA-256 of the file.

        Raises
        ------
        UnsupportedError
            Where a file cannot hold a dtype.
        StorageError
            Where the file cannot be written.
        """
        parts = self.parts()
        return write_sealed(path, type(self).__name__, parts, {"framework": framework_of(parts)})

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, expected_checksum: str | None = None) -> Self:
        """Read what `save` wrote, as arrays or tensors as it was.

        Raises
        ------
        StorageError
            Where the file cannot be read, holds something else, or has changed.
        """
        # Read as tensors in any case: numpy has no bfloat16, and a tensor gives its memory to an array for nothing.
        tensors, facts = read_sealed(path, cls.__name__, framework="torch", expected_checksum=expected_checksum)
        is_numpy = facts.get("framework") == "numpy"
        try:
            return cls.from_parts({name: each.numpy() if is_numpy else each for name, each in tensors.items()})
        except (DataError, UnsupportedError) as error:
            raise StorageError(f"{path} holds no {cls.__name__}: {error}") from error

    def __eq__(self, other: object) -> bool:
        """Tell whether both have the same parts, of the same dtypes, shapes and bits; a NaN equals itself."""
        if type(other) is not type(self):
            return NotImplemented
        mine, theirs = self.parts(), other.parts()
        return mine.keys() == theirs.keys() and all(_same(part, theirs[name]) for name, part in mine.items())

    __hash__ = None  # type: ignore[assignment]  # arrays change

    def __repr__(self) -> str:
        parts = ", ".join(
            f"{name} {list(part.shape[1:])} {str(part.dtype).removeprefix('torch.')}"
            for name, part in self.parts().items()
        )
        return f"{type(self).__name__}({len(self)} examples: {parts})"

    def _rows(self, which: Any) -> Self:
        parts = self.parts()
        if not isinstance(which, slice) and framework_of(parts) == "torch":
            import torch

            which = torch.from_numpy(which)
        return type(self).from_parts({name: part[which] for name, part in parts.items()})


def check_parts(owner: str, parts: dict[str, Any]) -> None:
    """Refuse what are no examples.

    Raises
    ------
    DataError
        Where the first axes differ in length, or there is none.
    UnsupportedError
        Where something is neither an array nor a tensor, or arrays and tensors are mixed.
    """
    kinds = {name: _framework(f"{owner}.{name}", part) for name, part in parts.items()}
    if len(set(kinds.values())) > 1:
        listed = ", ".join(f"{name} is {kind}" for name, kind in kinds.items())
        raise UnsupportedError(f"{owner}: give numpy arrays only or torch tensors only ({listed})")
    first, num_examples = "", 0
    for name, part in parts.items():
        if part.ndim == 0:
            raise DataError(f"{owner}.{name}: a single number has no axis of examples: reshape it to [1, ...]")
        first, num_examples = (first, num_examples) if first else (name, len(part))
        if len(part) != num_examples:
            raise DataError(f"{owner}: {first} are {num_examples} examples, {name} are {len(part)}")


def framework_of(parts: dict[str, Any]) -> str:
    """Return "numpy" or "torch": of what checked parts are."""
    return "numpy" if isinstance(next(iter(parts.values())), np.ndarray) else "torch"


def _framework(name: str, part: Any) -> str:
    if isinstance(part, np.ndarray) and part.dtype.kind in "biufc":
        return "numpy"
    torch = sys.modules.get("torch")  # where it was never imported, nothing is a tensor
    if torch is not None and isinstance(part, torch.Tensor):
        return "torch"
    given = f"an array of {part.dtype}" if isinstance(part, np.ndarray) else type(part).__name__
    raise UnsupportedError(f"{name}: a numpy array of numbers or a torch tensor is needed, not {given}")


def _ones_like(mask: Any, num_examples: int) -> Any:
    shape = (num_examples, *mask.shape[1:])
    return np.ones(shape, mask.dtype) if isinstance(mask, np.ndarray) else mask.new_ones(shape)


def _concatenate(parts: list[Any]) -> Any:
    if isinstance(parts[0], np.ndarray):
        return np.concatenate(parts)
    import torch

    return torch.cat(parts)


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other) or one.dtype != other.dtype or one.shape != other.shape:
        return False
    if isinstance(one, np.ndarray):
        return bool(one.tobytes() == other.tobytes())
    import torch

    a, b = (each.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for each in (one, other))
    return torch.equal(a, b)
