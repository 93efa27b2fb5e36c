"""Rows on their way from a source into a staged file."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hvdspark.data.fields import Field
from hvdspark.data.problems import Problem, explain, unequal_shapes
from hvdspark.errors import DataError

__all__ = ["Rows", "differences"]


@dataclass(frozen=True)
class Rows:
    """Some rows, or what is wrong with them. The arrays may be read-only, and are not to be written to.

    Parameters
    ----------
    num_rows
        How many they are.
    fields, arrays
        What they consist of: `[num_rows, *field.shape]` of the field's dtype each. Empty where there are problems.
    problems
        What cannot be trained on.
    flags
        `[num_rows] bool`: rows that are held back for validation; None: none are.
    place
        The file that they come from, where it is known.
    """

    num_rows: int
    fields: tuple[Field, ...] = ()
    arrays: tuple[NDArray[Any], ...] = ()
    problems: tuple[Problem, ...] = ()
    flags: NDArray[np.bool_] | None = None
    place: str = ""

    def checked(self) -> Self:
        """Return the rows, or say what is wrong with them.

        Raises
        ------
        DataError
            With the column, what is wrong, in how many rows, and the fix.
        """
        if self.problems:
            texts = [explain(one, f"the first is row {one.first_row} of this batch") for one in self.problems]
            raise DataError("; ".join(texts))
        return self


def differences(expected: tuple[Field, ...], found: tuple[Field, ...], num_rows: int) -> list[Problem]:
    """Return what keeps rows with other fields from joining those that are there."""
    ours, theirs = {field.key: field for field in expected}, {field.key: field for field in found}
    if ours.keys() != theirs.keys():
        odd = {**ours, **theirs}[min(ours.keys() ^ theirs.keys())]
        return [Problem("", "parts", num_rows, 0, f"some have {odd.name!r} and others not")]
    problems = []
    for key, field in ours.items():
        other = theirs[key]
        if other.shape != field.shape:
            problems.append(unequal_shapes(field.name, num_rows, 0, field.shape, other.shape))
        elif other.dtype != field.dtype:
            problems.append(Problem(field.name, "dtype", num_rows, 0, f"{field.dtype} and {other.dtype}"))
    return problems
