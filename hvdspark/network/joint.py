"""One loss of several outputs: the weighted sum of a loss for each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from hvdspark.errors import ConfigurationError, ModelError
from hvdspark.network.scores import example_losses, unreduced
from hvdspark.network.targets import CLASS_LOSSES, VALUE_LOSSES, name_of, read_by, target_for

__all__ = ["JointLoss", "check_loss", "each_loss", "read_each"]


class JointLoss(nn.Module):
    """The loss of a module with several outputs: ``sum(weight * loss(output, labels))`` over its outputs.

    Parameters
    ----------
    losses : sequence of callable
        One an output, in the order in which the module returns them: losses of torch.nn, or functions
        ``(output, target) -> scalar mean``. Each says what its output means: classes, values, yes or no.
    weights : sequence of float, optional
        One a loss, from 0 on. None: 1 each.

    Raises
    ------
    ConfigurationError
        If something is no loss, or there are not as many weights as losses.
    """

    def __init__(self, losses: Sequence[Callable[..., torch.Tensor]], weights: Sequence[float] | None = None) -> None:
        super().__init__()
        if not isinstance(losses, Sequence) or not losses:
            raise ConfigurationError("JointLoss.losses: a list with a loss for each output is needed")
        for place, loss in enumerate(losses):
            if isinstance(loss, type) or not callable(loss):
                raise ConfigurationError(f"JointLoss.losses[{place}]: an instance of a loss is needed, not {loss!r}")
            if getattr(loss, "reduction", "mean") != "mean":
                raise ConfigurationError(f"JointLoss.losses[{place}]: it must return the mean (reduction='mean')")
        if weights is not None and len(weights) != len(losses):
            raise ConfigurationError(f"JointLoss.weights: {len(losses)} are needed, one a loss, not {len(weights)}")
        for place, weight in enumerate(weights or ()):
            if not (math.isfinite(weight) and weight >= 0):
                raise ConfigurationError(f"JointLoss.weights[{place}]: a number from 0 on is needed, not {weight!r}")
        self.losses = tuple(losses)
        self.weights = None if weights is None else tuple(float(weight) for weight in weights)
        # What tensors they hold (weights of classes) go where this goes.
        self._held = nn.ModuleList(loss for loss in losses if isinstance(loss, nn.Module))

    def forward(
        self,
        outputs: Sequence[torch.Tensor],
        labels: Sequence[torch.Tensor],
        *,
        labels_mask: Sequence[torch.Tensor | None] | None = None,
        reduction: str = "mean",
    ) -> torch.Tensor:
        """Compute the loss of a batch.

        Parameters
        ----------
        outputs, labels : sequence of torch.Tensor
            `[b, ...]` each, one of both a loss.
        labels_mask : sequence, optional
            `[b, ...] bool` or None each: what of the labels counts.
        reduction : {"mean", "none"}
            The mean over the examples, or `[b]`, the loss of each.

        Raises
        ------
        ModelError
            If there are not as many outputs or labels as losses, or labels do not fit.
        """
        if not len(outputs) == len(labels) == len(self.losses):
            raise ModelError(
                f"JointLoss has {len(self.losses)} losses, but there are {len(outputs)} outputs and {len(labels)} "
                "labels: one of each for every loss"
            )
        masks = labels_mask or [None] * len(self.losses)
        total: Any = 0.0
        parts = zip(self.losses, self.weights or [1.0] * len(self.losses), outputs, labels, masks, strict=True)
        for loss, weight, output, label, mask in parts:
            total = total + weight * _one(loss, output, target_for(loss, output, label), mask, reduction)
        found: torch.Tensor = total
        return found

    def extra_repr(self) -> str:
        """Tell losses and weights."""
        return f"{', '.join(name_of(loss) for loss in self.losses)}; weights={self.weights}"


def _one(
    loss: Callable[..., torch.Tensor], output: torch.Tensor, target: Any, mask: torch.Tensor | None, reduction: str
) -> torch.Tensor:
    if mask is None and reduction == "mean":
        return loss(output, target)
    each = example_losses(unreduced(loss, "a mask or the loss of each example")(output, target), mask, name_of(loss))
    return each.mean() if reduction == "mean" else each


def each_loss(loss: Callable[..., torch.Tensor]) -> tuple[Callable[..., torch.Tensor], ...]:
    """Return the loss of each output: those of a `JointLoss`, else the loss alone."""
    return loss.losses if isinstance(loss, JointLoss) else (loss,)


def read_each(loss: Callable[..., torch.Tensor], output: Any) -> Any:
    """Turn what a module emitted into probabilities or values, by its loss; by each of them under a `JointLoss`.

    Raises
    ------
    ModelError
        If the module returned something else than the loss is for.
    """
    if not isinstance(loss, JointLoss):
        if isinstance(output, dict) or (
            isinstance(loss, (*CLASS_LOSSES, *VALUE_LOSSES)) and not isinstance(output, torch.Tensor)
        ):
            raise ModelError(
                f"the module returned a {type(output).__name__}: let it return one tensor, or several outputs as a "
                "tuple, or give Network(output=...), which makes them of it"
            )
        return read_by(loss, output)
    if not isinstance(output, tuple | list) or len(output) != len(loss.losses):
        given = f"{len(output)} outputs" if isinstance(output, tuple | list) else f"a {type(output).__name__}"
        raise ModelError(
            f"JointLoss has {len(loss.losses)} losses, but the module returned {given}: let it return a tuple with one "
            "for each, in their order"
        )
    return tuple(read_by(own, each) for own, each in zip(loss.losses, output, strict=True))


def check_loss(loss: Any) -> None:
    """Refuse what no network can be trained with (ConfigurationError)."""
    if isinstance(loss, type):
        raise ConfigurationError(f"Network.loss: {loss.__name__} is a class; give an instance: {loss.__name__}()")
    if getattr(loss, "reduction", "mean") != "mean":
        raise ConfigurationError(
            f"Network.loss: {name_of(loss)} has a reduction of its own: it must return the mean over the batch "
            "(reduction='mean'), since batches are weighted by their examples"
        )
    if isinstance(loss, JointLoss) and len(loss.losses) == 1:
        raise ConfigurationError(
            "Network.loss: JointLoss has one loss, and is for several outputs: give that loss itself, and a module "
            "that returns one tensor"
        )
