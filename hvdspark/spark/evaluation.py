"""Evaluation and scoring on Spark: each partition observes its rows, the driver merges what they saw, as a tree."""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from hvdspark.data import Role, Rows, Source
from hvdspark.errors import ConfigurationError, DataError
from hvdspark.evaluation import Batch, Measure, TorchMeasure, collect, combine
from hvdspark.masters import PortableFunction
from hvdspark.network import CLASS_LOSSES, VALUE_LOSSES, JointLoss, Network
from hvdspark.spark.passes import Emitted, check_batch_size, emitted, known_to_numpy, run_pass
from hvdspark.spark.slots import Slots

__all__ = ["as_measures", "calculate_score", "check_tells_classes", "evaluate"]

_BINARY_LOSSES = (nn.BCELoss, nn.BCEWithLogitsLoss)
_NOT_OF_THE_LOSS: frozenset[Role] = frozenset(("labels_mask", "weight"))  # evaluation needs no loss of each example
_SUM = struct.Struct("<dq")


def as_measures(given: Sequence[Any]) -> list[Measure]:
    """Return measures, with metrics of torchmetrics wrapped.

    Raises
    ------
    ConfigurationError
        If none is given.
    UnsupportedError
        If something is neither, or a metric does not merge.
    """
    if not given:
        raise ConfigurationError("no measure is given: name at least one")
    return [each if isinstance(each, Measure) else TorchMeasure(each) for each in given]


def check_tells_classes(network: Network, method: str) -> None:
    """Refuse a network whose loss is none of classes, nor of yes or no."""
    if not (network.is_classifier or isinstance(network.loss, _BINARY_LOSSES)):
        raise ConfigurationError(
            f"{method} counts classes, but the loss is {type(network.loss).__name__}: "
            "CrossEntropyLoss, NLLLoss, BCELoss or BCEWithLogitsLoss is needed; do_evaluation measures anything"
        )


def evaluate(
    source: Source, network: Network, measures: Sequence[Measure], *, batch_size: int, slots: Slots, one_class: str = ""
) -> list[Any]:
    """Observe all rows with some measures in one pass.

    Parameters
    ----------
    source
        The rows. Each counts once, whatever its weight; masks of labels say which parts count.
    network
        What is evaluated.
    measures
        What is measured.
    batch_size
        Rows that go through the network at a time.
    slots
        How many copies of the network a host holds at once.
    one_class
        The method that counts one class a row, and so refuses networks that answer several questions; empty: none.

    Returns
    -------
    list
        The result of each measure.
    """
    check_batch_size(batch_size)
    # In a form that travels: a metric's class may stand beside the user's script.
    observe = PortableFunction(functools.partial(collect, list(measures)), "do_evaluation")
    several = one_class if isinstance(network.loss, _BINARY_LOSSES) else ""
    parts = run_pass(source, network, _Observe(observe, batch_size, several), slots, omitted=_NOT_OF_THE_LOSS)
    return combine(measures, parts)


@dataclass(frozen=True)
class _Observe:
    observe: PortableFunction
    batch_size: int
    one_class: str

    def __call__(self, network: Network, rows: Iterator[Rows]) -> bytes:
        batches = (self._batch(network, batch) for batch in emitted(network, rows, self.batch_size))
        observed: bytes = self.observe(batches)
        return observed

    def _batch(self, network: Network, batch: Emitted) -> Batch:
        with torch.inference_mode():
            readable = network.readable(batch.output)
        if isinstance(batch.labels, tuple):
            losses = network.loss.losses if isinstance(network.loss, JointLoss) else [None] * len(batch.labels)
            pairs = [_comparable(*each) for each in zip(losses, readable, batch.labels, strict=True)]
            masks = None if batch.labels_mask is None else [_array(mask) for mask in batch.labels_mask]
            return [_array(output) for output, _ in pairs], [_array(labels) for _, labels in pairs], masks
        if self.one_class and readable.ndim > 1 and readable.shape[1] > 1:
            raise DataError(
                f"the network says yes or no to {readable.shape[1]} questions a row, and {self.one_class} counts one "
                "class a row: do_evaluation(data, BinaryMeasure()) or RocBinaryMeasure() takes each by itself"
            )
        output, labels = _comparable(network.loss, readable, batch.labels)
        return _array(output), _array(labels), _array(batch.labels_mask)


def _comparable(loss: Any, output: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Bring one output and its labels to the shapes and dtypes that measures and metrics agree on."""
    if isinstance(loss, VALUE_LOSSES) and {output.shape, labels.shape} == {(len(labels),), (len(labels), 1)}:
        output, labels = output.reshape(-1), labels.reshape(-1)
    classes = isinstance(loss, CLASS_LOSSES + _BINARY_LOSSES)
    of_one_class = isinstance(loss, _BINARY_LOSSES) or labels.shape != output.shape
    if classes and of_one_class and labels.is_floating_point() and torch.equal(labels, labels.round()):
        labels = labels.to(torch.int64)  # whole-number doubles are classes here as they are in training
    return output, labels


def _array(tensor: torch.Tensor | None) -> Any:
    if tensor is None:
        return None
    return known_to_numpy(tensor).cpu().numpy()


def calculate_score(source: Source, network: Network, *, average: bool, batch_size: int, slots: Slots) -> float:
    """Compute the loss over all examples as training does, without regularisation.

    Parameters
    ----------
    source, network, batch_size, slots
        As of `evaluate`. Masks and weights act as in training.
    average
        The mean over the examples; False: the sum.
    """
    check_batch_size(batch_size)
    parts = run_pass(source, network, _Score(batch_size), slots, omitted=frozenset())
    sums, counts = zip(*(_SUM.unpack(part) for part in parts), strict=True)
    total = math.fsum(sums)
    return total / sum(counts) if average else total


@dataclass(frozen=True)
class _Score:
    batch_size: int

    def __call__(self, network: Network, rows: Iterator[Rows]) -> bytes:
        sums: list[float] = []
        count = 0
        for batch in emitted(network, rows, self.batch_size):
            with torch.inference_mode():
                mean = network.score(batch.output, batch.labels, labels_mask=batch.labels_mask, weights=batch.weights)
            sums.append(float(np.float64(mean.item()) * batch.size))
            count += batch.size
        return _SUM.pack(math.fsum(sums), count)
