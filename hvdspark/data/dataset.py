"""Examples held in memory: what users hand in as an RDD and keep in files."""

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

from hvdspark.data.examples import Examples, check_parts
from hvdspark.errors import DataError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = ["DataSet"]


@dataclass(frozen=True, eq=False, repr=False)
class DataSet(Examples):
    """Features and labels of some examples, and masks that say which parts of a sequence count.

    All are numpy arrays or all are torch tensors; the first axis is the example. Nothing is copied: the arrays stay the
    caller's, and nobody here writes to them. Two are equal where their bits are.

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
        parts = self.parts()
        if "features" not in parts:
            raise DataError("DataSet: features are needed")
        check_parts("DataSet", parts)

    def parts(self) -> dict[str, Any]:
        """Return the arrays that are there, by the names of the parameters."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: part for name, part in parts.items() if part is not None}

    @classmethod
    def from_parts(cls, parts: dict[str, Any]) -> Self:
        """Make one of what `parts` returned."""
        unknown = sorted(parts.keys() - {field.name for field in fields(cls)})
        if unknown or "features" not in parts:
            raise DataError(f"features are needed, and there is no place for {unknown or 'anything else'}")
        return cls(**parts)
