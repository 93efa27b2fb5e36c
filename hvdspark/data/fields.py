"""What a row is: an ordered set of fields, each with its role, dtype and shape."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar, get_args

__all__ = ["DTYPES", "ROLES", "Dtype", "Field", "Role", "natural"]

Role = Literal["feature", "label", "features_mask", "labels_mask", "weight"]
Dtype = Literal["float32", "int64", "uint8", "bool"]
ROLES: tuple[Role, ...] = get_args(Role)
DTYPES: tuple[Dtype, ...] = get_args(Dtype)

T = TypeVar("T")


@dataclass(frozen=True)
class Field:
    """One array of every row.

    Parameters
    ----------
    role
        What it is for.
    index
        Which input it is or masks, or which output, from 0.
    name
        What the user calls it: names of columns, or the name of an array in a DataSet.
    dtype
        Of its numbers. Masks are bool, weights float32.
    shape
        Of one row; ``()``: one number.
    argument
        Of a feature: the module's argument that takes it; empty: inputs are given by position.
    """

    role: Role
    index: int
    name: str
    dtype: Dtype
    shape: tuple[int, ...]
    argument: str = ""

    @property
    def key(self) -> str:
        """Name of its column in a staged file."""
        return f"{self.role}_{self.index}"

    @property
    def num_values(self) -> int:
        """Numbers of one row."""
        return math.prod(self.shape)


def natural(
    fields: Sequence[Field], role: Role, values: Sequence[T]
) -> "T | tuple[T | None, ...] | dict[str, T] | None":
    """Give the values of a role the form in which a module or a loss takes them.

    Parameters
    ----------
    fields
        All fields of a row.
    role
        Whose values are wanted.
    values
        One for each field, in their order.

    Returns
    -------
    value, tuple, dict or None
        The value itself where there is one input (or output); a tuple where there are several, with None where an input
        has no mask; a dict by argument where inputs are named; None where no field has the role.
    """
    found = {field.index: value for field, value in zip(fields, values, strict=True) if field.role == role}
    if not found:
        return None
    owner: Role = "label" if role in ("label", "labels_mask") else "feature"
    owners = [field for field in fields if field.role == owner]
    if owner == "feature" and role != "weight" and owners[0].argument:
        return {field.argument: found[field.index] for field in owners if field.index in found}
    if role == "weight" or len(owners) == 1:
        return found[0]
    return tuple(found.get(field.index) for field in owners)
