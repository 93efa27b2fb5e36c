"""What evaluations return: frozen values that are printed, shown in notebooks, and kept as JSON."""

from __future__ import annotations

import abc
import dataclasses
import json
from collections.abc import Sequence
from typing import Any, Self

import numpy as np

from hvdspark.errors import DataError
from hvdspark.evaluation.markup import html_table

__all__ = ["Result", "class_number", "ratio", "text_table"]


@dataclasses.dataclass(frozen=True, eq=False)
class Result(abc.ABC):
    """The base of results. Equal ones hold equal numbers."""

    @abc.abstractmethod
    def rows(self) -> list[tuple[str, str]]:
        """Return the main figures as (name, value) rows."""

    def to_json(self) -> str:
        """Return JSON text that `from_json` takes back."""
        return json.dumps({"kind": type(self).__name__, **_plain(self)})

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Make one from JSON text.

        Raises
        ------
        DataError
            If the text is none that `to_json` of this class wrote.
        """
        try:
            fields = json.loads(text)
            if fields.pop("kind") != cls.__name__:
                raise DataError(f"{cls.__name__}: this is JSON of another result: {text[:60]}")
            return cls(**{name: _rebuilt(value) for name, value in fields.items()})
        except (json.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{cls.__name__}: this is no JSON of a result: {error}") from None

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return self.to_json() == other.to_json()

    __hash__ = None  # type: ignore[assignment]  # it holds arrays

    def __str__(self) -> str:
        return text_table(self.rows())

    def _repr_html_(self) -> str:
        return html_table(self.rows())


def _plain(value: Any) -> Any:
    if isinstance(value, Result):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, np.ndarray):
        return {"dtype": str(value.dtype), "shape": list(value.shape), "values": value.reshape(-1).tolist()}
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return value


def _rebuilt(value: Any) -> Any:
    if isinstance(value, dict) and "dtype" in value:
        return np.array(value["values"], np.dtype(value["dtype"])).reshape(value["shape"])
    if isinstance(value, dict):
        return {key: _rebuilt(item) for key, item in value.items()}
    return tuple(map(_rebuilt, value)) if isinstance(value, list) else value


def class_number(label: str | int, names: Sequence[str]) -> int:
    """Return the number of a class that is given by its name or number (DataError if there is none)."""
    if isinstance(label, str) and label in names:
        return names.index(label)
    if isinstance(label, int) and 0 <= label < len(names):
        return label
    raise DataError(f"{label!r} is no class: there are {', '.join(names)}")


def ratio(part: Any, whole: Any) -> float:
    """Return part / whole, and 0 for 0 / 0."""
    return float(part / whole) if whole else 0.0


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows as text: the first column to the left, all others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join([row[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    )
    return "\n".join(line.rstrip() for line in lines)
