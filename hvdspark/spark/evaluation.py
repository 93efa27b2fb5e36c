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
from hvdspark.errors import ConfigurationError, DataError, ModelError
from hvdspark.evaluation import Batch, Measure, TorchMeasure, collect, combine
from hvdspark.masters import PortableFunction, inferring
from hvdspark.network import CLASS_LOSSES, VALUE_LOSSES, JointLoss, Network
from hvdspark.spark.passes import Emitted, check_batch_size, emitted, known_to_numpy, run_pass
from hvdspark.spark.slots import Slots

__all__ = ["as_measures", "calculate_score", "check_tells_classes", "evaluate", "tells_classes"]

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


def tells_classes(loss: Any) -> bool:
    """Tell whether a loss is one of classes, or of yes or no."""
    return isinstance(loss, CLASS_LOSSES + _BINARY_LOSSES)


def check_tells_classes(network: Network, method: str) -> None:
    """Refuse a network whose loss is none of classes, nor of yes or no."""
    if not tells_classes(network.loss):
        raise ConfigurationError(
            f"{method} counts classes, but the loss is {type(network.loss).__name__}: "
            "CrossEntropyLoss, NLLLoss, BCELoss or BCEWithLogitsLoss is needed; do_evaluation measures anything"
        )


def evaluate(
    source: Source,
    network: Network,
    measures: Sequence[Measure],
    *,
    batch_size: int,
    slots: Slots,
    device: str,
    one_class: str = "",
    one_output: bool = False,
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
    device
        Where it computes, as of `Parcel`; what is measured is on the CPU.
    one_class
        The method that counts one class a row, and so refuses networks that answer several questions; empty: none.
    one_output
        Whether rows with several labels are refused.

    Returns
    -------
    list
        The result of each measure.
    """
    check_batch_size(batch_size)
    # In a form that travels: a metric's class may stand beside the user's script.
    observe = PortableFunction(functools.partial(collect, list(measures)), "do_evaluation")
    places = frozenset(each.output for each in measures)
    work = _Observe(observe, batch_size, one_class, one_output, places)
    parts = run_pass(source, network, work, slots, omitted=_NOT_OF_THE_LOSS, device=device)
    return combine(measures, parts)


@dataclass(frozen=True)
class _Observe:
    observe: PortableFunction
    batch_size: int
    one_class: str
    one_output: bool
    places: frozenset[int]

    def __call__(self, network: Network, rows: Iterator[Rows]) -> bytes:
        batches = (self._batch(network, batch) for batch in emitted(network, rows, self.batch_size))
        observed: bytes = self.observe(batches)
        return observed

    def _batch(self, network: Network, batch: Emitted) -> Batch:
        with inferring(network):
            readable = network.readable(batch.output)
        if not isinstance(batch.labels, tuple):
            self._check_one_class(network.loss, readable, "the network")
            output, labels = _comparable(network.loss, readable, batch.labels)
            return _array(output), _array(labels), _array(batch.labels_mask)
        count = len(batch.labels)
        if self.one_output:
            raise ConfigurationError(
                f"rows have {count} labels, and the network is not known to have several outputs: give it "
                "JointLoss([...]) with a loss for each"
            )
        if not isinstance(readable, tuple | list) or len(readable) != count:
            raise ModelError(
                f"rows have {count} labels, and the network says a {type(readable).__name__}: to be evaluated it must "
                f"say a tuple of {count} (see the module's forward, and Network.output)"
            )
        losses = network.loss.losses if isinstance(network.loss, JointLoss) else [None] * count
        for place in self.places & set(range(count)):
            self._check_one_class(losses[place], readable[place], f"output {place}")
        pairs = [_comparable(*each) for each in zip(losses, readable, batch.labels, strict=True)]
        masks = None if batch.labels_mask is None else [_array(mask) for mask in batch.labels_mask]
        return [_array(output) for output, _ in pairs], [_array(labels) for _, labels in pairs], masks

    def _check_one_class(self, loss: Any, readable: Any, who: str) -> None:
        if self.one_class and isinstance(loss, _BINARY_LOSSES) and readable.ndim > 1 and readable.shape[1] > 1:
            raise DataError(
                f"{who} says yes or no to {readable.shape[1]} questions a row, and {self.one_class} counts one "
                "class a row: do_evaluation(data, BinaryMeasure()) or RocBinaryMeasure() takes each by itself"
            )


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


def calculate_score(
    source: Source, network: Network, *, average: bool, batch_size: int, slots: Slots, device: str
) -> float:
    """Compute the loss over all examples as training does, without regularisation.

    Parameters
    ----------
    source, network, batch_size, slots, device
        As of `evaluate`. Masks and weights act as in training.
    average
        The mean over the examples; False: the sum.
    """
    check_batch_size(batch_size)
    parts = run_pass(source, network, _Score(batch_size), slots, omitted=frozenset(), device=device)
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
            with inferring(network):
                mean = network.score(batch.output, batch.labels, labels_mask=batch.labels_mask, weights=batch.weights)
            sums.append(float(np.float64(mean.item()) * batch.size))
            count += batch.size
        return _SUM.pack(math.fsum(sums), count)
