"""The outputs of a network with several: what each is called, and in what form all of them come back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["gathered", "names_of"]


def names_of(names: Sequence[str], count: int) -> list[str]:
    """Return what so many outputs are called: the names, where each has one, else their numbers from 0."""
    return list(names) if len(names) == count else [str(number) for number in range(count)]


def gathered(inputs: Any, outputs: Sequence[Any], names: Sequence[str]) -> Any:
    """Return outputs in the form in which inputs were given; one output alone as it is.

    Parameters
    ----------
    inputs
        A list gives a list, a dict a dict by the names of the outputs, anything else a tuple.
    outputs
        At least one.
    names
        Of the outputs, as of `names_of`.
    """
    if len(outputs) == 1:
        return outputs[0]
    if isinstance(inputs, Mapping):
        return dict(zip(names_of(names, len(outputs)), outputs, strict=True))
    return list(outputs) if isinstance(inputs, list) else tuple(outputs)
