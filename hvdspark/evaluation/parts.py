"""Several measures in one pass over a part of the data, and the parts as bytes: arrays in safetensors, never pickle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hvdspark.errors import ConfigurationError, DataError, MessageError
from hvdspark.evaluation.measure import Measure, MergeTree, State

__all__ = ["Batch", "collect", "combine", "evaluate_batches", "for_each_output", "merge_parts"]

Arrays: TypeAlias = NDArray[Any] | Sequence[NDArray[Any]]
Batch: TypeAlias = tuple[Arrays, Arrays, Arrays | None]
"""Outputs, labels, mask: arrays (or CPU tensors), or a list of each for a network with several outputs."""


def collect(measures: Sequence[Measure], batches: Iterable[Batch]) -> bytes:
    """Observe batches with all measures in one pass, on any process.

    Parameters
    ----------
    measures
        The same ones, in the same order, wherever parts of one evaluation are collected.
    batches
        Read once; none at all is a part, too.

    Returns
    -------
    bytes
        The part's states, for `combine`.

    Raises
    ------
    DataError
        If shapes do not fit, or a value cannot be measured.
    NonFiniteError
        If the network says NaN.
    """
    return _written(_observed(measures, batches))


def merge_parts(measures: Sequence[Measure], parts: Iterable[bytes]) -> bytes:
    """Merge some parts into one, for trees of more than one storey.

    Raises
    ------
    MessageError
        If bytes are not a part of these measures.
    """
    return _written(_merged(measures, parts))


def combine(measures: Sequence[Measure], parts: Iterable[bytes]) -> list[Any]:
    """Return each measure's result over all parts.

    Raises
    ------
    DataError
        If no part has a row.
    MessageError
        If bytes are not a part of these measures.
    """
    return [m.compute(state) for m, state in zip(measures, _merged(measures, parts), strict=True)]


def evaluate_batches(measures: Sequence[Measure], batches: Iterable[Batch]) -> list[Any]:
    """Return each measure's result over batches, in this process."""
    return [m.compute(state) for m, state in zip(measures, _observed(measures, batches), strict=True)]


def for_each_output(of: Measure, outputs: int) -> list[Measure]:
    """Return the measure once for each output of a network."""
    return [of.replaced(output=number) for number in range(outputs)]


def _observed(measures: Sequence[Measure], batches: Iterable[Batch]) -> list[State]:
    if not measures:
        raise ConfigurationError("no measure is given: name at least one")
    trees = [MergeTree(each) for each in measures]
    for batch in batches:
        for tree, each in zip(trees, measures, strict=True):
            tree.add(each.observe(*_of_output(batch, each.output)))
    return [tree.total() for tree in trees]


def _of_output(batch: Batch, number: int) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None]:
    outputs, labels, masks = batch
    several = isinstance(outputs, (list, tuple))
    if number >= (len(outputs) if several else 1):
        raise ConfigurationError(f"output={number}: the network has {len(outputs) if several else 1}, counted from 0")
    if not several:
        return np.asarray(outputs), np.asarray(labels), None if masks is None else np.asarray(masks)
    if len(labels) != len(outputs):
        raise DataError(f"{len(labels)} labels do not fit {len(outputs)} outputs")
    mask = None if masks is None else masks[number]
    return np.asarray(outputs[number]), np.asarray(labels[number]), None if mask is None else np.asarray(mask)


def _written(states: Sequence[State]) -> bytes:
    from safetensors.numpy import save

    named = {f"{i}/{name}": np.array(a, order="C") for i, state in enumerate(states) for name, a in state.items()}
    return bytes(save(named, {"measures": str(len(states))}))


def _merged(measures: Sequence[Measure], parts: Iterable[bytes]) -> list[State]:
    trees = [MergeTree(each) for each in measures]
    for part in parts:
        for tree, state in zip(trees, _read(part, len(measures)), strict=True):
            tree.add(state)
    return [tree.total() for tree in trees]


def _read(part: bytes, measures: int) -> list[State]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        arrays = load(part)
    except SafetensorError as error:
        raise MessageError(f"this is not a part of an evaluation: {error}") from None
    states: list[State] = [{} for _ in range(measures)]
    for name, array in arrays.items():
        number, _, key = name.partition("/")
        if not number.isdigit() or int(number) >= measures:
            raise MessageError(f"this is a part of another evaluation: {name} belongs to none of {measures} measures")
        states[int(number)][key] = array
    return states
