"""What is measured: states that merge in any order, so that partitions and batches need not know of each other."""

from __future__ import annotations

import abc
from collections.abc import Iterable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from hvdspark.config import Configuration
from hvdspark.errors import DataError

__all__ = ["Measure", "MergeTree", "State", "merge_all"]

State: TypeAlias = dict[str, NDArray[Any]]
"""Arrays by name: all that a measure knows of the rows it has seen. The empty dict has seen none."""


class Measure(Configuration, abc.ABC):
    """Options of a measure, and what it does with states. It is frozen: states are made, never changed.

    Rows count alike: a mask says which count at all, and weights are refused. Arrays have torch's layout: `[b,
    classes]`, sequences of classes `[b, classes, t]`, columns last (`[b, columns]`, `[b, t, columns]`).

    Parameters
    ----------
    output
        Which output of a network with several is measured, from 0.
    """

    output: int = Field(default=0, ge=0)

    @abc.abstractmethod
    def observe(self, output: NDArray[Any], labels: NDArray[Any], mask: NDArray[Any] | None = None) -> State:
        """Return the state of one batch.

        Parameters
        ----------
        output
            What the network says: probabilities or values, the first axis is the example.
        labels
            What is true.
        mask
            0 or 1 (or booleans), one for each example or each step of each example; None counts all.

        Raises
        ------
        DataError
            If shapes do not fit, or a value cannot be measured.
        """

    @abc.abstractmethod
    def compute(self, state: State) -> Any:
        """Return the result.

        Raises
        ------
        DataError
            If no row was observed.
        """

    def merge(self, one: State, other: State) -> State:
        """Return the state of the rows of both. It is associative, commutative, and the empty state changes nothing."""
        if not one or not other:
            return one or other
        self._check_alike(one, other)
        return self._merge(one, other)

    def _merge(self, one: State, other: State) -> State:
        return {name: one[name] + other[name] for name in one}

    def _check_alike(self, one: State, other: State) -> None:
        for name in one.keys() | other.keys():
            if name not in one or name not in other or one[name].shape != other[name].shape:
                raise DataError(
                    f"{type(self).__name__}: parts disagree about {name!r}: "
                    f"{_shape_of(one, name)} and {_shape_of(other, name)}; have all rows equally many columns?"
                )

    def _check_observed(self, state: State) -> None:
        if not state:
            raise DataError(f"{type(self).__name__}: there is no row to evaluate")


class MergeTree:
    """Merges states in pairs, as a tree: sums keep their accuracy, and concatenations copy each row log n times only.

    Parameters
    ----------
    measure
        What the states are of.
    """

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self._waiting: list[tuple[int, State]] = []  # (height, state), heights fall: log n of them

    def add(self, state: State) -> None:
        """Take one more state in."""
        height = 0
        while self._waiting and self._waiting[-1][0] == height:
            state = self._measure.merge(self._waiting.pop()[1], state)
            height += 1
        self._waiting.append((height, state))

    def total(self) -> State:
        """Return the state of all; empty, if there is none."""
        merged: State = {}
        for _, state in reversed(self._waiting):
            merged = self._measure.merge(state, merged)
        return merged


def merge_all(measure: Measure, states: Iterable[State]) -> State:
    """Return the merged state of any number, empty ones included.

    It is the same as that of one pass over all rows: counts exactly, sums of floats but for their rounding.
    """
    tree = MergeTree(measure)
    for state in states:
        tree.add(state)
    return tree.total()


def _shape_of(state: State, name: str) -> str:
    return str(np.shape(state[name])) if name in state else "nothing"
