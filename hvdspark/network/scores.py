"""The loss of each example by itself: what weights multiply, and where masks leave parts out."""

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from hvdspark.errors import ConfigurationError, ModelError
from hvdspark.network.targets import CLASS_LOSSES, VALUE_LOSSES, name_of

__all__ = ["check_roles", "example_losses", "score_each", "takes", "unreduced"]


def takes(function: Callable[..., Any], argument: str) -> bool:
    """Tell whether a function (or a module's forward) takes an argument by that name."""
    called = function.forward if isinstance(function, nn.Module) else function
    try:
        parameters = inspect.signature(called).parameters.values()
    except (TypeError, ValueError):  # made in C, without a signature
        return False
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return any(
        parameter.kind is inspect.Parameter.VAR_KEYWORD or (parameter.name == argument and parameter.kind in by_name)
        for parameter in parameters
    )


def unreduced(loss: Callable[..., Any], needed_for: str) -> Callable[..., torch.Tensor]:
    """Return a loss that gives one number an element (or an example) instead of their mean.

    Parameters
    ----------
    loss
        A module with an attribute ``reduction``, as torch's losses have, or a function that takes ``reduction``.
    needed_for
        What needs it, for the message.

    Raises
    ------
    ConfigurationError
        If the loss knows no ``reduction="none"``, or weighs classes, which its mean divides by.
    """
    if getattr(loss, "weight", None) is not None and hasattr(loss, "ignore_index"):
        raise ConfigurationError(
            f"Network.loss: the class weights of {name_of(loss)} and {needed_for} cannot act together, since its mean "
            "is divided by the class weights of the batch: multiply them into the weight column instead"
        )
    found = _without_reduction(loss)
    if found is not None:
        return found
    raise ConfigurationError(
        f"Network.loss: {needed_for} needs the loss of each example, and {name_of(loss)} gives their mean only: give "
        'a loss of torch.nn, or a function that takes reduction="none"'
    )


def _without_reduction(loss: Callable[..., Any]) -> Callable[..., torch.Tensor] | None:
    if isinstance(loss, nn.Module) and hasattr(loss, "reduction"):
        own = copy.copy(loss)
        own.reduction = "none"  # type: ignore[assignment]  # an attribute of torch's losses
        return own
    if takes(loss, "reduction"):
        return lambda output, target, **more: loss(output, target, reduction="none", **more)
    return None


def score_each(
    loss: Callable[..., Any], output: Any, target: Any, *, labels_mask: Any = None, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute the loss of each example by itself, without regularisation.

    Parameters
    ----------
    loss
        With ``reduction="none"`` it is called once; else once for each example. Class weights multiply the losses.
    output, target
        `[b, ...]`, as the loss compares them; tuples of them where there are several outputs.
    labels_mask
        `[b, ...] bool`, or a tuple; as of `Network.score`.
    weights
        `[b] float32`: each example's loss is multiplied by its own.

    Returns
    -------
    torch.Tensor
        `[b]`.
    """
    mask_of_loss = {}
    if labels_mask is not None and takes(loss, "labels_mask"):
        mask_of_loss, labels_mask = {"labels_mask": labels_mask}, None
    whole = _without_reduction(loss)
    if whole is not None:
        each = example_losses(whole(output, target, **mask_of_loss), labels_mask, name_of(loss))
    else:
        if labels_mask is not None:
            unreduced(loss, "a labels mask")  # says why it is refused
        size = len(target[0] if isinstance(target, tuple) else target)
        losses = [
            loss(_row(output, row), _row(target, row), **{name: _row(v, row) for name, v in mask_of_loss.items()})
            for row in range(size)
        ]
        if any(not isinstance(value, torch.Tensor) or value.ndim for value in losses):
            raise ModelError(f"the loss {name_of(loss)} must return a scalar, the mean over the batch")
        each = torch.stack(losses)
    return each if weights is None else each * weights


def _row(values: Any, row: int) -> Any:
    if isinstance(values, tuple | list):
        return tuple(_row(each, row) for each in values)
    return None if values is None else values[row : row + 1]


def check_roles(roles: Sequence[str], module: nn.Module, loss: Callable[..., Any]) -> None:
    """Make sure that masks and weights reach somebody; see `Network.check_roles`."""
    if "features_mask" in roles and not takes(module, "features_mask"):
        raise ConfigurationError(
            f"Network.module: there is a features mask, but {type(module).__name__}.forward takes no argument "
            "features_mask: add it, or leave the mask out"
        )
    if roles.count("label") > 1:
        if isinstance(loss, (*CLASS_LOSSES, *VALUE_LOSSES)):
            raise ConfigurationError(
                f"Network.loss: {name_of(loss)} is the loss of one output, and there are {roles.count('label')}: give "
                "JointLoss([...]), a loss for each, or a function of two tuples, (outputs, targets)"
            )
        if "labels_mask" in roles and not takes(loss, "labels_mask"):
            raise ConfigurationError(
                "Network.loss: with several outputs a labels mask goes to a loss that takes labels_mask, and "
                f"{name_of(loss)} does not"
            )
    if "weight" in roles:
        unreduced(loss, "a weight column")
    if "labels_mask" in roles and not takes(loss, "labels_mask"):
        unreduced(loss, "a labels mask")


def example_losses(losses: torch.Tensor, mask: torch.Tensor | None, name: str) -> torch.Tensor:
    """Reduce what an unreduced loss gave to one number an example.

    Parameters
    ----------
    losses
        `[b, ...]`.
    mask
        `[b, ...] bool`, with the first axes of `losses` or all of them; None: everything counts.
    name
        Of the loss, for the message.

    Returns
    -------
    torch.Tensor
        `[b]`: the mean over the parts of each example that count, 0 where none does. So an example counts the same
        however much of it is masked, and N ranks equal one rank with the whole batch.

    Raises
    ------
    ModelError
        If the shapes do not fit.
    """
    if losses.ndim == 0:
        raise ModelError(f'the loss {name} returned a scalar under reduction="none": one number an example is needed')
    if mask is None:
        return losses.reshape(len(losses), -1).mean(dim=1)
    if losses.shape[: mask.ndim] != mask.shape:
        raise ModelError(
            f"a labels mask of shape {list(mask.shape)} does not fit losses of shape {list(losses.shape)} ({name}): "
            "give the mask the shape of the labels, or their first axes"
        )
    counts = mask.reshape(*mask.shape, *[1] * (losses.ndim - mask.ndim)).expand(losses.shape).reshape(len(losses), -1)
    # where, not a product: NaN times 0 would be NaN, and what is masked may be anything
    kept = torch.where(counts, losses.reshape(len(losses), -1), torch.zeros((), device=losses.device))
    return kept.sum(dim=1) / counts.sum(dim=1).clamp(min=1)
