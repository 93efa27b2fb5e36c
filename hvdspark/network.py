"""What every front end trains: a module, a loss, an optimizer factory, and what its output means."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from hvdspark import storage
from hvdspark.errors import ConfigurationError, ModelError, StorageError

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

__all__ = ["Network"]

_FORMAT = 1
_WEIGHTS = "model.safetensors"
_FACTS = "network.json"

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


def _softmax(output: torch.Tensor) -> torch.Tensor:
    return torch.softmax(output, dim=1)


def _identity(output: torch.Tensor) -> torch.Tensor:
    return output


class Network:
    """A PyTorch module together with all that is needed to train it and to read its output.

    Parameters
    ----------
    module : torch.nn.Module
        Maps one feature tensor `[b, w] float32` to one output. After a fit it holds the trained weights.
    loss : callable
        ``(output, target) -> scalar``, the mean over the examples of the batch. Batches are weighted by their examples,
        also where a loss weighs classes.
    optimizer : callable
        A factory ``parameters -> torch.optim.Optimizer``: ``functools.partial(torch.optim.SGD, lr=0.05)``.
    lr_scheduler : callable, optional
        A factory ``optimizer -> scheduler``. ReduceLROnPlateau looks at the validation score, else the score.
    scheduler_interval : {"epoch", "step"}
        When the scheduler steps.
    output : callable, optional
        Turns what the module emits into probabilities or values. None: softmax under CrossEntropyLoss, exp under
        NLLLoss, sigmoid under BCEWithLogitsLoss, else the identity.
    l1, l2 : float
        Added to the loss: ``l1 * sum(|w|) + l2 / 2 * sum(w ** 2)`` over the trainable parameters.

    Raises
    ------
    ConfigurationError
        If a part is of the wrong kind.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        *,
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        scheduler_interval: str = "epoch",
        output: Callable[[torch.Tensor], torch.Tensor] | None = None,
        l1: float = 0.0,
        l2: float = 0.0,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise ConfigurationError(f"Network.module: a torch.nn.Module is needed, this is a {type(module).__name__}")
        if isinstance(loss, type):
            raise ConfigurationError(f"Network.loss: {loss.__name__} is a class; give an instance: {loss.__name__}()")
        if getattr(loss, "reduction", "mean") != "mean":
            raise ConfigurationError(
                f"Network.loss: {_name(loss)} has a reduction of its own: it must return the mean over the batch "
                "(reduction='mean'), since batches are weighted by their examples"
            )
        if isinstance(optimizer, torch.optim.Optimizer):
            kind = type(optimizer).__name__
            raise ConfigurationError(
                f"Network.optimizer: each rank makes its own optimizer, so a factory is needed: "
                f"functools.partial(torch.optim.{kind}, lr=...) instead of the {kind} itself"
            )
        for name, part in (
            ("loss", loss),
            ("optimizer", optimizer),
            ("lr_scheduler", lr_scheduler),
            ("output", output),
        ):
            if part is not None and not callable(part):
                raise ConfigurationError(f"Network.{name}: a callable is needed, this is a {type(part).__name__}")
        if scheduler_interval not in ("epoch", "step"):
            raise ConfigurationError(f"Network.scheduler_interval: 'epoch' or 'step', not {scheduler_interval!r}")
        for name, value in (("l1", l1), ("l2", l2)):
            if not (value >= 0 and value < float("inf")):
                raise ConfigurationError(f"Network.{name}: a finite number >= 0 is needed, not {value!r}")
        self.module = module
        self.loss = loss
        self.optimizer = optimizer
        self.lr_scheduler = lr_scheduler
        self.scheduler_interval = scheduler_interval
        self.output = output
        self.l1 = l1
        self.l2 = l2

    @property
    def is_classifier(self) -> bool:
        """Whether the labels are class indices: the loss is CrossEntropyLoss or NLLLoss."""
        return isinstance(self.loss, CLASS_LOSSES)

    @property
    def num_parameters(self) -> int:
        """How many trainable numbers the module has."""
        return sum(p.numel() for p in self.module.parameters() if p.requires_grad)

    def readable(self, output: torch.Tensor) -> torch.Tensor:
        """Turn the module's raw output into probabilities or values, by `output` or by the loss's rule."""
        if self.output is not None:
            return self.output(output)
        if isinstance(self.loss, nn.CrossEntropyLoss):
            return _softmax(output)
        if isinstance(self.loss, nn.NLLLoss):
            return output.exp()
        if isinstance(self.loss, nn.BCEWithLogitsLoss):
            return output.sigmoid()
        return _identity(output)

    def score(self, output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute the mean loss of a batch, without regularisation.

        Parameters
        ----------
        output : torch.Tensor
            What the module emitted, `[b, ...]`.
        labels : torch.Tensor
            `[b] int64`, `[b] float32` or `[b, k] float32`, as the data path delivers them.

        Raises
        ------
        ModelError
            If the output is no tensor, labels do not fit it, or the loss is not a scalar.
        """
        if not isinstance(output, torch.Tensor):
            raise ModelError(
                f"the module returned a {type(output).__name__}: wrap it in a module that returns one tensor"
            )
        value = self.loss(output, self.target_for(output, labels))
        if not isinstance(value, torch.Tensor) or value.ndim != 0:
            shown = (
                f"a tensor of shape {list(value.shape)}"
                if isinstance(value, torch.Tensor)
                else f"a {type(value).__name__}"
            )
            raise ModelError(
                f"the loss {_name(self.loss)} returned {shown}: it must return a scalar, the mean over the batch "
                "(torch's losses do so with reduction='mean')"
            )
        return value

    def penalty(self) -> torch.Tensor | None:
        """Compute the regularisation term of the present weights (None where there is none)."""
        if self.l1 == 0 and self.l2 == 0:
            return None
        weights = [p for p in self.module.parameters() if p.requires_grad]
        total = torch.zeros((), device=weights[0].device if weights else None)
        for weight in weights:
            if self.l1:
                total = total + self.l1 * weight.abs().sum()
            if self.l2:
                total = total + 0.5 * self.l2 * weight.square().sum()
        return total

    def target_for(self, output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Bring labels to the dtype and shape that the loss compares with `output`; nothing is broadcast silently.

        Raises
        ------
        ModelError
            If they cannot mean the same thing; the message shows both shapes.
        """
        if self.is_classifier:
            return self._class_target(output, labels)
        if labels.dtype == torch.int64 and not isinstance(self.loss, VALUE_LOSSES) and labels.numel() != output.numel():
            return labels  # a loss of the user's own: class indices may be what it wants
        target = labels.to(torch.float32)
        if target.shape == output.shape:
            return target
        if target.ndim == 1 and target.shape[0] == output.shape[0] and target.numel() == output.numel():
            return target.reshape(output.shape)
        raise ModelError(
            f"labels of shape {list(labels.shape)} do not fit an output of shape {list(output.shape)} under "
            f"{_name(self.loss)}: give the module as many outputs as there are label columns"
        )

    def _class_target(self, output: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        num_classes = output.shape[1] if output.ndim > 1 else 0
        if labels.is_floating_point() and labels.shape == output.shape and isinstance(self.loss, nn.CrossEntropyLoss):
            return labels  # one probability a class
        if labels.ndim != 1 or output.ndim != 2 or labels.shape[0] != output.shape[0]:
            raise ModelError(
                f"labels of shape {list(labels.shape)} do not fit an output of shape {list(output.shape)} under "
                f"{_name(self.loss)}: class indices [b] and outputs [b, classes] are needed"
            )
        target = labels.to(torch.int64)
        if labels.is_floating_point() and not torch.equal(target.to(labels.dtype), labels):
            bad = labels[target.to(labels.dtype) != labels][0].item()
            raise ModelError(
                f"{_name(self.loss)} needs class indices, but a label is {bad}: whole numbers from 0 are needed"
            )
        if target.numel() and (int(target.min()) < 0 or int(target.max()) >= num_classes):
            raise ModelError(
                f"labels run from {int(target.min())} to {int(target.max())}, the module has {num_classes} outputs: "
                f"class indices must lie in 0..{num_classes - 1}"
            )
        return target

    # ---- persistence -------------------------------------------------------------------------------------------

    def save(self, directory: str) -> None:
        """Write the weights (`model.safetensors`) and what they belong to (`network.json`) into a directory or URL.

        No pickle is written: the architecture is the code that makes the module. `load` takes the weights back.
        """
        storage.make_directories(directory)
        tensors = self.module.state_dict()
        checksum = storage.write_tensors(storage.join(directory, _WEIGHTS), tensors)
        facts = {
            "format": _FORMAT,
            "weights": {"file": _WEIGHTS, "checksum": checksum},
            "module": f"{type(self.module).__module__}.{type(self.module).__qualname__}",
            "loss": _name(self.loss),
            "tensors": {name: {"shape": list(t.shape), "dtype": str(t.dtype)} for name, t in tensors.items()},
        }
        storage.write_json(storage.join(directory, _FACTS), facts)

    def load(self, directory: str) -> Network:
        """Put the weights that `save` wrote into this network's module.

        Raises
        ------
        StorageError
            If a file is missing, changed, or of another format version.
        ModelError
            If the weights are those of another architecture; the message names the first difference.
        """
        facts = storage.read_json(storage.join(directory, _FACTS))
        if facts.get("format") != _FORMAT:
            raise StorageError(
                f"{directory}: format {facts.get('format')!r} is not {_FORMAT}, the one this version reads"
            )
        weights = facts["weights"]
        tensors, _ = storage.read_tensors(
            storage.join(directory, _WEIGHTS), framework="torch", expected_checksum=weights["checksum"]
        )
        self.load_tensors(tensors, source=directory)
        return self

    def load_tensors(self, tensors: dict[str, torch.Tensor], *, source: str) -> None:
        """Put tensors by name into the module, refusing another architecture's (ModelError)."""
        own = self.module.state_dict()
        missing, unknown = sorted(own.keys() - tensors.keys()), sorted(tensors.keys() - own.keys())
        if missing or unknown:
            raise ModelError(
                f"{source} holds the weights of another module: "
                f"missing {missing[:5] or 'none'}, unknown {unknown[:5] or 'none'}"
            )
        for name, value in own.items():
            if value.shape != tensors[name].shape:
                raise ModelError(
                    f"{source}: {name} has shape {list(tensors[name].shape)}, the module's is {list(value.shape)}"
                )
        self.module.load_state_dict(tensors)

    def check_portable(self) -> None:
        """Make sure that the network can travel to workers and its weights back.

        Raises
        ------
        ModelError
            If a part cannot be pickled, or the module's state is more than tensors; the message names it.
        """
        import cloudpickle

        lazy = [name for name, p in self.module.named_parameters() if is_lazy(p)]
        if lazy:
            raise ModelError(f"Network.module: {lazy[0]} has no shape yet: run one batch through the module first")
        extra = sorted(name for name, value in self.module.state_dict().items() if not isinstance(value, torch.Tensor))
        if extra:
            raise ModelError(
                f"Network.module: {extra[0]!r} in its state_dict is no tensor (get_extra_state), and only tensors are "
                "kept: make it a buffer, or a constructor argument"
            )

        for name in ("module", "loss", "optimizer", "lr_scheduler", "output"):
            try:
                cloudpickle.dumps(getattr(self, name))
            except (TypeError, AttributeError, ValueError, RuntimeError, RecursionError, pickle.PicklingError) as error:
                raise ModelError(
                    f"Network.{name} cannot travel to the workers: {error}. Keep open files, locks, sessions, lambdas "
                    "with such state and hooks out of it, or make them on first use"
                ) from error


def _name(thing: Any) -> str:
    return getattr(thing, "__name__", type(thing).__name__)
