"""What a loss takes: labels in the dtype and shape that it compares with an output, and what that output means."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from hvdspark.errors import ModelError

__all__ = ["CLASS_LOSSES", "VALUE_LOSSES", "name_of", "read_by", "target_for"]

CLASS_LOSSES = (nn.CrossEntropyLoss, nn.NLLLoss)
VALUE_LOSSES = (
    nn.MSELoss,
    nn.L1Loss,
    nn.SmoothL1Loss,
    nn.HuberLoss,
    nn.BCELoss,
    nn.BCEWithLogitsLoss,
    nn.PoissonNLLLoss,
)


def target_for(loss: Callable[..., Any], output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Bring labels to the dtype and shape that a loss compares with an output; nothing is broadcast silently.

    Parameters
    ----------
    loss
        The loss. Of those of torch it is known what they compare.
    output
        `[b, ...]`.
    labels
        `[b, ...]`, as the data path delivers them.

    Raises
    ------
    ModelError
        If they cannot mean the same thing; the message shows both shapes.
    """
    if isinstance(loss, CLASS_LOSSES):
        return _class_target(loss, output, labels)
    if labels.dtype == torch.int64 and not isinstance(loss, VALUE_LOSSES) and labels.numel() != output.numel():
        return labels  # a loss of the user's own: class indices may be what it wants
    target = labels.to(torch.float32)
    if target.shape == output.shape:
        return target
    if target.ndim == 1 and target.shape[0] == output.shape[0] and target.numel() == output.numel():
        return target.reshape(output.shape)
    raise ModelError(
        f"labels of shape {list(labels.shape)} do not fit an output of shape {list(output.shape)} under "
        f"{name_of(loss)}: give the module as many outputs as there are label columns"
    )


def _class_target(loss: Callable[..., Any], output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    num_classes = output.shape[1] if output.ndim > 1 else 0
    if labels.is_floating_point() and labels.shape == output.shape and isinstance(loss, nn.CrossEntropyLoss):
        return labels  # one probability a class
    if output.ndim < 2 or labels.shape != (output.shape[0], *output.shape[2:]):
        raise ModelError(
            f"labels of shape {list(labels.shape)} do not fit an output of shape {list(output.shape)} under "
            f"{name_of(loss)}: class indices [b, ...] and outputs [b, classes, ...] are needed"
        )
    target = labels.to(torch.int64)
    if labels.is_floating_point() and not torch.equal(target.to(labels.dtype), labels):
        bad = labels[target.to(labels.dtype) != labels][0].item()
        raise ModelError(f"{name_of(loss)} needs class indices, but a label is {bad}: whole numbers from 0 are needed")
    if target.numel() and (int(target.min()) < 0 or int(target.max()) >= num_classes):
        raise ModelError(
            f"labels run from {int(target.min())} to {int(target.max())}, the module has {num_classes} outputs: "
            f"class indices must lie in 0..{num_classes - 1}"
        )
    return target


def read_by(loss: Callable[..., Any], output: torch.Tensor) -> torch.Tensor:
    """Turn an output into probabilities or values, by what its loss takes."""
    if isinstance(loss, nn.CrossEntropyLoss):
        return torch.softmax(output, dim=1)
    if isinstance(loss, nn.NLLLoss):
        return output.exp()
    return output.sigmoid() if isinstance(loss, nn.BCEWithLogitsLoss) else output


def name_of(thing: Any) -> str:
    """Return what messages call a loss or another part."""
    return getattr(thing, "__name__", type(thing).__name__)
