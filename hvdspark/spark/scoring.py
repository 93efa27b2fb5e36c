"""The loss of each example by itself: a column of a DataFrame, or an RDD of numbers, with keys where there are some."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from hvdspark.data import Examples, Inspection, Rows, Table, TableSource, check_problems
from hvdspark.data.elements import element_rows
from hvdspark.errors import DataError
from hvdspark.masters import Parcel, inferring
from hvdspark.network import Network, score_each
from hvdspark.spark.batches import readable_rows
from hvdspark.spark.passes import check_batch_size, emitted
from hvdspark.spark.tables import add_columns, check_names

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark import RDD
    from pyspark.sql import DataFrame

__all__ = ["score_rdd", "score_table"]

_COLUMN = "score"


def score_table(
    network: Network, table: Table, *, include_regularization: bool, batch_size: int, device: str
) -> DataFrame:
    """Add the column `score` to a DataFrame: the loss of each row.

    Parameters
    ----------
    network
        A loss that knows ``reduction="none"`` is called for a batch at once, others row by row.
    table
        All its columns are kept; with a label. Masks and weights act as in training.
    include_regularization
        Add the network's penalty to each score.
    batch_size
        Rows that go through the network at a time.
    device
        Where it computes, as of `Parcel`.

    Raises
    ------
    DataError
        If there is a column `score` already.
    """
    from pyspark.sql import types

    check_batch_size(batch_size)
    check_names(table.frame, [_COLUMN], "score_examples")
    network.check_roles(TableSource(table).roles)
    parcel, plan = Parcel(network, device), table.plan
    penalty = _penalty(network) if include_regularization else 0.0

    def work(batches: Iterator[pa.RecordBatch]) -> Iterator[tuple[pa.RecordBatch, list[Any]]]:
        import numpy as np
        import pyarrow as pa

        shared = parcel.shared()
        for batch, rows in readable_rows(plan, batches):
            yield batch, [pa.array(np.fromiter(_scores(shared, [rows], batch_size, penalty), np.float64))]

    return add_columns(table, [types.StructField(_COLUMN, types.DoubleType())], work)


def score_rdd(
    network: Network, rdd: RDD[Any], *, include_regularization: bool, batch_size: int, device: str
) -> RDD[Any]:
    """Return the scores of the examples of an RDD, in order.

    Parameters
    ----------
    network, include_regularization, batch_size, device
        As of `score_table`.
    rdd
        Of DataSets, MultiDataSets, labelled points, (label, vector) pairs or paths of saved files: each example gives a
        float. Of (key, DataSet) pairs with one example each: each gives (key, float).
    """
    check_batch_size(batch_size)
    penalty = _penalty(network) if include_regularization else 0.0
    return rdd.mapPartitionsWithIndex(functools.partial(_scored, Parcel(network, device), batch_size, penalty))


def _penalty(network: Network) -> float:
    penalty = network.penalty()
    return 0.0 if penalty is None else float(penalty.detach())


def _scored(parcel: Parcel, batch_size: int, penalty: float, partition: int, elements: Iterable[Any]) -> Iterator[Any]:
    network = parcel.shared()
    for keyed, run in itertools.groupby(elements, _is_keyed):
        if not keyed:
            yield from _scores(network, _good(element_rows(run), partition), batch_size, penalty)
            continue
        while taken := list(itertools.islice(run, batch_size)):
            for key, examples in taken:
                if len(examples) != 1:
                    raise DataError(
                        f"key {key!r} has {len(examples)} examples, and a score is of one: split them "
                        "(DataSet.split(1)) and give each its key, or score an RDD without keys"
                    )
            rows = _good(element_rows(examples for _, examples in taken), partition)
            yield from zip((key for key, _ in taken), _scores(network, rows, batch_size, penalty), strict=True)


def _is_keyed(element: Any) -> bool:
    return isinstance(element, tuple) and len(element) == 2 and isinstance(element[1], Examples)


def _good(source: Iterable[Rows], partition: int) -> Iterator[Rows]:
    inspection = Inspection()
    yield from inspection.passing(source)
    check_problems([inspection.result(partition)], "array")


def _scores(network: Network, source: Iterable[Rows], batch_size: int, penalty: float) -> Iterator[float]:
    for batch in emitted(network, _checked_once(network, source), batch_size):
        with inferring(network):
            target = network.targets(batch.output, batch.labels)
            each = score_each(network.loss, batch.output, target, labels_mask=batch.labels_mask, weights=batch.weights)
        yield from (score + penalty for score in each.reshape(-1).to(torch.float64).tolist())


def _checked_once(network: Network, source: Iterable[Rows]) -> Iterator[Rows]:
    """Make sure that what the first rows consist of can act; all others have the same fields."""
    rows = iter(source)
    for first in itertools.islice(rows, 1):
        network.check_roles([field.role for field in first.fields])
        yield first
    yield from rows
