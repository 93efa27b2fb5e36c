"""Outputs for pairs of key and features: RDDs whose rows must be told apart afterwards."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from hvdspark.data import DataSet, Inspection, check_problems
from hvdspark.data.elements import element_rows
from hvdspark.errors import DataError
from hvdspark.masters import Parcel
from hvdspark.network import Network
from hvdspark.spark.passes import check_batch_size, emitted, read_output

if TYPE_CHECKING:
    from pyspark import RDD

__all__ = ["feed_forward_with_key"]

_WINDOW = 16  # batches that are looked at together, so that equal shapes meet


def feed_forward_with_key(network: Network, pairs: RDD[Any], batch_size: int) -> RDD[Any]:
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

    Returns
    -------
    RDD
        Of (key, ndarray): probabilities or values of one example, in the order of the pairs.
    """
    check_batch_size(batch_size)
    return pairs.mapPartitionsWithIndex(functools.partial(_fed, Parcel(network), batch_size))


def _fed(parcel: Parcel, batch_size: int, partition: int, pairs: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    network = parcel.shared()
    source = (_example(pair) for pair in pairs)
    while window := list(itertools.islice(source, _WINDOW * batch_size)):
        alike: dict[Any, list[int]] = {}
        for number, (_, arrays) in enumerate(window):
            alike.setdefault(tuple((array.shape, array.dtype) for array in arrays), []).append(number)
        found: dict[int, NDArray[Any]] = {}
        for numbers in alike.values():
            stacked = [np.stack(each) for each in zip(*(window[number][1] for number in numbers), strict=True)]
            found.update(zip(numbers, _outputs(network, stacked, batch_size, partition), strict=True))
        for number, (key, _) in enumerate(window):
            yield key, found[number]


def _example(pair: Any) -> tuple[Any, Sequence[NDArray[Any]]]:
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise DataError(
            f"pairs of (key, features) or (key, (features, mask)) are needed, one element is a {type(pair).__name__}"
        )
    key, given = pair
    if not isinstance(given, tuple):
        return key, [_array(given)]
    if len(given) != 2:
        raise DataError(f"key {key!r} has a tuple of {len(given)}: (features, mask) is needed")
    features, mask = given
    return key, [_array(features)] if mask is None else [_array(features), _array(mask)]


def _array(values: Any) -> NDArray[Any]:
    if hasattr(values, "toArray"):  # a vector of Spark's
        return np.asarray(values.toArray())
    return values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(values)


def _outputs(
    network: Network, arrays: Sequence[NDArray[Any]], batch_size: int, partition: int
) -> Iterator[NDArray[Any]]:
    no_labels = np.zeros(len(arrays[0]), np.int64)  # rows of a source have labels; nobody looks at these
    inspection = Inspection()
    rows = list(inspection.passing(element_rows([DataSet(arrays[0], no_labels, *arrays[1:])])))
    check_problems([inspection.result(partition)], "array")
    network.check_roles([field.role for field in rows[0].fields])
    for batch in emitted(network, rows, batch_size):
        yield from read_output(network, batch.output).cpu().numpy()
