"""Outputs for pairs of key and features: RDDs whose rows must be told apart afterwards."""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from hvdspark.data import DataSet, Field, Inspection, MultiDataSet, Rows, check_problems
from hvdspark.data.elements import element_rows
from hvdspark.errors import DataError, UnsupportedError
from hvdspark.masters import Parcel
from hvdspark.network import Network, check_inputs
from hvdspark.spark.batches import said
from hvdspark.spark.heads import gathered
from hvdspark.spark.passes import check_batch_size

if TYPE_CHECKING:
    from pyspark import RDD

__all__ = ["feed_forward_with_key"]

_WINDOW = 16  # batches that are looked at together, so that equal shapes meet


def feed_forward_with_key(
    network: Network, pairs: RDD[Any], batch_size: int, names: Sequence[str] | None = None, *, device: str
) -> RDD[Any]:
    """Return (key, output) for each (key, features) or (key, (features, mask)).

    Parameters
    ----------
    network
        What is asked.
    pairs
        Features are one example's: an array, tensor or vector without an axis of examples. Examples of equal shape go
        through the network together.
    batch_size
        Examples that go through the network at a time.
    names
        Of the outputs, where several inputs and outputs are understood: features, and masks, are then a list in the
        order of inputs or a dict by argument as well. None: they are not.
    device
        Where the network computes, as of `Parcel`.

    Returns
    -------
    RDD
        Of (key, ndarray): probabilities or values of one example, in the order of the pairs. With several outputs a
        list, tuple or dict of arrays.

    Raises
    ------
    UnsupportedError
        If this is no RDD.
    """
    from pyspark import RDD

    if not isinstance(pairs, RDD):
        what = "features" if names is None else "inputs"
        raise UnsupportedError(
            f"feed_forward_with_key: an RDD of (key, {what}) is needed, this is a {type(pairs).__name__}: predict "
            "keeps the columns of a DataFrame"
        )
    check_batch_size(batch_size)
    return pairs.mapPartitionsWithIndex(functools.partial(_fed, Parcel(network, device), batch_size, names))


class _Example(NamedTuple):
    """The parts of one example; a mask is None where everything counts."""

    key: Any
    form: Any
    """Of its features: [] or {} where there may be several."""
    arguments: tuple[str, ...]
    features: tuple[NDArray[Any], ...]
    masks: tuple[NDArray[Any] | None, ...]

    @property
    def kind(self) -> Any:
        """What examples that go through the network together have in common."""
        parts = [None if each is None else (each.shape, each.dtype) for each in (*self.features, *self.masks)]
        return type(self.form), self.arguments, tuple(parts)


def _fed(
    parcel: Parcel, batch_size: int, names: Sequence[str] | None, partition: int, pairs: Iterable[Any]
) -> Iterator[tuple[Any, Any]]:
    network = parcel.shared()
    source = (_example(pair, several=names is not None) for pair in pairs)
    while window := list(itertools.islice(source, _WINDOW * batch_size)):
        alike: dict[Any, list[int]] = {}
        for number, example in enumerate(window):
            alike.setdefault(example.kind, []).append(number)
        found: dict[int, Any] = {}
        for numbers in alike.values():
            rows = _rows(network, [window[number] for number in numbers], partition)
            outputs = [each.numpy() for each in said(network, rows, batch_size, several=names is not None)]
            form = window[numbers[0]].form
            found.update(
                (number, gathered(form, each, names or ())) for number, *each in zip(numbers, *outputs, strict=True)
            )
        for number, example in enumerate(window):
            yield example.key, found[number]


def _example(pair: Any, *, several: bool) -> _Example:
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise DataError(
            f"pairs of (key, features) or (key, (features, mask)) are needed, one element is a {type(pair).__name__}"
        )
    key, given = pair
    if isinstance(given, tuple) and len(given) != 2:
        more = ", or a list of several features," if several else ""
        raise DataError(f"key {key!r} has a tuple of {len(given)}: (features, mask){more} is needed")
    features, masks = given if isinstance(given, tuple) else (given, None)
    if several and isinstance(features, list | Mapping):
        form: Any = {} if isinstance(features, Mapping) else []
        if masks is not None and type(masks) is not type(features):
            raise DataError(f"key {key!r}: masks are a {type(features).__name__} as the features are")
        if isinstance(features, Mapping):
            by_name = dict(masks or {})
            in_order = [by_name.get(name) for name in features]
            return _Example(key, form, tuple(features), _arrays(features.values()), _arrays(in_order))
        return _Example(key, form, ("",) * len(features), _arrays(features), _arrays(masks or [None] * len(features)))
    return _Example(key, None, ("",), _arrays([features]), _arrays([masks]))


def _arrays(parts: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(None if part is None else _array(part) for part in parts)


def _array(values: Any) -> NDArray[Any]:
    if hasattr(values, "toArray"):  # a vector of Spark's
        return np.asarray(values.toArray())
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _rows(network: Network, examples: Sequence[_Example], partition: int) -> list[Rows]:
    """Return examples of one kind as rows of which the network can be asked."""
    first = examples[0]
    features = [np.stack(each) for each in zip(*(one.features for one in examples), strict=True)]
    columns = zip(*(one.masks for one in examples), strict=True)
    masks = [None if each[0] is None else np.stack(each) for each in columns]
    no_labels = np.zeros(len(examples), np.int64)  # rows of a source have labels; nobody looks at these
    inspection = Inspection()
    if first.form is None:
        source = element_rows([DataSet(features[0], no_labels, masks[0])])
    else:
        check_inputs(network.own_module, first.arguments, f"feed_forward_with_key, key {first.key!r}")
        source = element_rows([MultiDataSet(features, [no_labels], masks)])
    rows = list(inspection.passing(source))
    check_problems([inspection.result(partition)], "array")
    network.check_roles([field.role for field in rows[0].fields if field.role != "label"])
    return [dataclasses.replace(each, fields=_called(each.fields, first.arguments)) for each in rows]


def _called(fields: Sequence[Field], arguments: Sequence[str]) -> tuple[Field, ...]:
    """Let inputs go to the module's arguments by name."""
    return tuple(
        field if field.role == "label" else dataclasses.replace(field, argument=arguments[field.index])
        for field in fields
    )
