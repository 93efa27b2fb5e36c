"""Examples with several inputs and outputs, held in memory."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self, TypeAlias

from hvdspark.data.dataset import DataSet
from hvdspark.data.examples import Examples, check_parts
from hvdspark.errors import DataError, UnsupportedError

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

__all__ = ["MultiDataSet"]

_Array: TypeAlias = "NDArray[Any] | torch.Tensor"
_LISTS = ("features", "labels")


@dataclass(frozen=True, eq=False, repr=False)
class MultiDataSet(Examples):
    """Several features and labels of some examples, in the order of the network's inputs and outputs.

    All are numpy arrays or all are torch tensors; the first axis is the example. Nothing is copied: the arrays stay the
    caller's, and nobody here writes to them. Two are equal where their bits are.

    Parameters
    ----------
    features
        At least one of `[n, ...]`.
    labels
        Any number of `[n, ...]`; none: unlabelled.
    features_masks, labels_masks
        One entry for each of the features or labels, `[n, ...]`, or None where everything counts; empty: everything
        counts everywhere.

    Raises
    ------
    DataError
        Where the first axes differ in length or there is none, or there are more or fewer masks than what they mask.
    UnsupportedError
        Where something is neither an array nor a tensor, or arrays and tensors are mixed.
    """

    features: "Sequence[_Array]"
    labels: "Sequence[_Array]" = ()
    features_masks: "Sequence[_Array | None]" = ()
    labels_masks: "Sequence[_Array | None]" = ()

    def __post_init__(self) -> None:
        for field in fields(self):
            given = getattr(self, field.name)
            if given is not None and not isinstance(given, list | tuple):
                raise UnsupportedError(
                    f"MultiDataSet.{field.name}: a list of arrays is needed, not a {type(given).__name__}"
                )
            object.__setattr__(self, field.name, tuple(given or ()))
        if not self.features:
            raise DataError("MultiDataSet: features are needed")
        for name in _LISTS:
            masks = getattr(self, f"{name}_masks")
            if masks and len(masks) != len(getattr(self, name)):
                raise DataError(
                    f"MultiDataSet: {len(getattr(self, name))} {name}, but {len(masks)} {name}_masks: give one for "
                    "each, None where everything counts"
                )
            if masks and all(mask is None for mask in masks):
                object.__setattr__(self, f"{name}_masks", ())
        check_parts("MultiDataSet", self.parts())

    def parts(self) -> dict[str, Any]:
        """Return the arrays that are there: ``features_0``, ``labels_1``, ``features_mask_0`` ..."""
        parts = {f"{name}_{i}": part for name in _LISTS for i, part in enumerate(getattr(self, name))}
        for name in _LISTS:
            masks = enumerate(getattr(self, f"{name}_masks"))
            parts.update({f"{name}_mask_{i}": mask for i, mask in masks if mask is not None})
        return parts

    @classmethod
    def from_parts(cls, parts: dict[str, Any]) -> Self:
        """Make one of what `parts` returned."""
        rest, lists = dict(parts), {}
        for name in _LISTS:
            count = next(i for i in range(len(parts) + 1) if f"{name}_{i}" not in parts)
            lists[name] = [rest.pop(f"{name}_{i}") for i in range(count)]
            lists[f"{name}_masks"] = [rest.pop(f"{name}_mask_{i}", None) for i in range(count)]
        if rest:
            raise DataError(f"there is no place for {', '.join(sorted(rest))}")
        return cls(**lists)

    @classmethod
    def of(cls, data: DataSet) -> Self:
        """Return a DataSet as one input and one output."""
        given = (data.features, data.labels, data.features_mask, data.labels_mask)
        return cls(*([] if part is None else [part] for part in given))
