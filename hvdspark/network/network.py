"""A network: what is trained, what its output means, and how it is kept."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from hvdspark.errors import ConfigurationError, ModelError
from hvdspark.network.joint import JointLoss, check_loss, read_each
from hvdspark.network.saving import load, read, save
from hvdspark.network.scores import check_roles, example_losses, takes, unreduced
from hvdspark.network.targets import CLASS_LOSSES, name_of, target_for
from hvdspark.normalizing import Normalizing, in_front

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

__all__ = ["Network"]


class Network:
    """A PyTorch module together with all that is needed to train it and to read its output.

    Parameters
    ----------
    module : torch.nn.Module
        Maps the features `[b, ...]` to one output. With several inputs it is called with all of them, in order or by
        argument name. With a features mask it is called with ``features_mask=`` as well, in the form of the features.
        After a fit it holds the trained weights.
    loss : callable
        ``(output, target) -> scalar``, the mean over the examples of the batch. Batches are weighted by their examples,
        also where a loss weighs classes. With several outputs it is a `JointLoss`, or called with a tuple of outputs
        and one of targets. A labels mask goes to a loss that takes ``labels_mask=``; else each example's loss is its
        mean over what counts.
        Weights multiply each example's loss. Both need the loss of each example: a loss of torch.nn, or a function that
        takes ``reduction="none"``.
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
    normalizer : Normalizer, optional
        Stands in front of the module, wherever the network is used: `module` is then a Sequential of its layer and the
        module given. Where it normalises labels, the loss compares normalised ones, and the output comes back in the
        labels' units. It is saved with the network; an unfitted one can only take what `load` reads.

    Raises
    ------
    ConfigurationError
        If a part is of the wrong kind.
    """

    def __init__(
        self,
        module: nn.Module,
        loss: Callable[..., torch.Tensor],
        optimizer: Callable[[Iterable[nn.Parameter]], Optimizer],
        *,
        lr_scheduler: Callable[[Optimizer], LRScheduler] | None = None,
        scheduler_interval: str = "epoch",
        output: Callable[[torch.Tensor], torch.Tensor] | None = None,
        l1: float = 0.0,
        l2: float = 0.0,
        normalizer: Normalizing | None = None,
    ) -> None:
        if not isinstance(module, nn.Module):
            raise ConfigurationError(f"Network.module: a torch.nn.Module is needed, this is a {type(module).__name__}")
        check_loss(loss)
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
        self.module = in_front(normalizer, module, is_classifier=isinstance(loss, CLASS_LOSSES))
        self.normalizer = normalizer
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
    def own_module(self) -> nn.Module:
        """The user's module: `module` without the normaliser's layer that may stand in front of it."""
        return self.module if self.normalizer is None else self.module.get_submodule("module")

    @property
    def num_parameters(self) -> int:
        """How many trainable numbers the module has."""
        return sum(p.numel() for p in self.module.parameters() if p.requires_grad)

    def readable(self, output: Any) -> Any:
        """Turn the module's raw output into probabilities or values, by `output` or by the loss's rule.

        With a `JointLoss` the outputs are a tuple, each turned by its own loss.

        Where labels are normalised, the values are in the labels' units.
        """
        values = self._values(output)
        return values if self._label_layer is None else self._label_layer.revert_labels(values)

    @property
    def _label_layer(self) -> Any:
        """The layer that knows the labels' units; None where labels are as they are."""
        fits = self.normalizer is not None and self.normalizer.fits_labels
        return self.module.get_submodule("normalizer") if fits else None

    def _values(self, output: Any) -> Any:
        if self.output is not None:
            return self.output(output)
        return read_each(self.loss, output)

    def check_roles(self, roles: Sequence[str]) -> None:
        """Make sure that what rows consist of can act.

        Parameters
        ----------
        roles : sequence of str
            The roles of their fields, one each, as `hvdspark.data.fields` names them.

        Raises
        ------
        ConfigurationError
            If a mask or weights would reach nobody, or something is made for one input or output and there are several;
            the message names the fix.
        """
        check_roles(roles, self.own_module, self.loss)
        labels = roles.count("label")
        if isinstance(self.loss, JointLoss) and labels not in (0, len(self.loss.losses)):
            raise ConfigurationError(
                f"Network.loss: JointLoss has {len(self.loss.losses)} losses, and rows have {labels} labels: give one "
                "for each"
            )
        if self.normalizer is not None:
            several = "feature" if roles.count("feature") > 1 else "label" if self.normalizer.fits_labels else ""
            if several and roles.count(several) > 1:
                raise ConfigurationError(
                    f"Network.normalizer knows one input and one output, and there are {roles.count(several)} of "
                    f"{several}: normalise inside the module"
                )

    def emit(self, features: Any, features_mask: Any = None) -> Any:
        """Call the module.

        Parameters
        ----------
        features : torch.Tensor, tuple or dict of them
            One input; several in order; several by argument name.
        features_mask : torch.Tensor, tuple or dict of them, optional
            In the same form; handed on as the argument ``features_mask``.
        """
        if features_mask is None:
            module, more = self.module, {}
        else:
            module, more = self.module, {"features_mask": features_mask}
            if self.normalizer is not None:  # a Sequential hands on one argument only
                features = module.get_submodule("normalizer")(features)
                module = module.get_submodule("module")
        if isinstance(features, dict):
            return module(**features, **more)
        return module(*features, **more) if isinstance(features, tuple) else module(features, **more)

    def score(
        self, output: Any, labels: Any, *, labels_mask: Any = None, weights: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Compute the mean loss of a batch, without regularisation.

        Parameters
        ----------
        output : torch.Tensor
            What the module emitted, `[b, ...]`. With several outputs: a tuple or list of them.
        labels : torch.Tensor
            `[b] int64`, `[b] float32` or `[b, ...]`, as the data path delivers them. With several outputs: a tuple.
        labels_mask : torch.Tensor, optional
            `[b, ...] bool`; a tuple with several outputs.
        weights : torch.Tensor, optional
            `[b] float32`: each example's loss is multiplied by its own; the mean is over the number of examples.

        Raises
        ------
        ModelError
            If the output is no tensor, labels do not fit it, or the loss is not a scalar.
        ConfigurationError
            If the loss has no use for a mask or weights.
        """
        target = self.targets(output, labels)
        mask_of_loss = {}
        if labels_mask is not None and takes(self.loss, "labels_mask"):
            mask_of_loss, labels_mask = {"labels_mask": labels_mask}, None
        if labels_mask is None and weights is None:
            return self._scalar(self.loss(output, target, **mask_of_loss))
        loss = unreduced(self.loss, "a weight column" if labels_mask is None else "a labels mask")
        each = example_losses(loss(output, target, **mask_of_loss), labels_mask, name_of(self.loss))
        return (each if weights is None else each * weights).mean()

    def targets(self, output: Any, labels: Any) -> Any:
        """Return what the loss compares with the output: `target_for`, or the tuple of labels of several outputs."""
        if isinstance(labels, tuple):
            if not isinstance(output, tuple | list) or len(output) != len(labels):
                given = f"{len(output)} outputs" if isinstance(output, tuple | list) else f"a {type(output).__name__}"
                raise ModelError(
                    f"there are {len(labels)} labels, but the module returned {given}: return a tuple of all"
                )
            return labels
        if not isinstance(output, torch.Tensor):
            raise ModelError(
                f"the module returned a {type(output).__name__}: wrap it in a module that returns one tensor"
            )
        return self.target_for(output, labels)

    def _scalar(self, value: Any) -> torch.Tensor:
        if isinstance(value, torch.Tensor) and value.ndim == 0:
            return value
        kind = type(value).__name__
        shown = f"a tensor of shape {list(value.shape)}" if isinstance(value, torch.Tensor) else f"a {kind}"
        raise ModelError(
            f"the loss {name_of(self.loss)} returned {shown}: it must return a scalar, the mean over the batch "
            "(torch's losses do so with reduction='mean')"
        )

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

        Where the network's normalizer was fitted to labels, they are normalised.

        Raises
        ------
        ModelError
            If they cannot mean the same thing; the message shows both shapes.
        """
        if self._label_layer is not None and not self.is_classifier:
            labels = self._label_layer.normalize_labels(labels)
        return target_for(self.loss, output, labels)

    # ---- persistence -------------------------------------------------------------------------------------------

    known: ClassVar[list[Callable[..., Any]]] = []
    """Classes and functions of the user's that `read` may use for every network."""

    def save(self, directory: str, *, architecture: Callable[..., nn.Module] | None = None) -> None:
        """Write the network into a directory or URL: weights as safetensors, all else as JSON; never a pickle.

        Parameters
        ----------
        directory : str
            It is made. `load` takes the weights back into a network that there is; `read` makes the network again.
        architecture : callable, optional
            What makes the module, for `read`: a class or function of a module's top level, or a ``functools.partial``
            of one with plain arguments: ``functools.partial(Net, hidden=64)``. None: found out for layers of torch.nn,
            Sequentials of them, and classes whose constructor takes no argument; for other modules only `load` works.

        Raises
        ------
        ModelError
            If `architecture` has no name that can be written down, or makes another module than this one.
        """
        save(self, directory, architecture)

    @classmethod
    def read(cls, directory: str, *, known: Iterable[Callable[..., Any]] = ()) -> Network:
        """Make the network again that `save` wrote.

        Parameters
        ----------
        directory : str
            Path or URL.
        known : iterable of callable
            The user's own classes and functions that the network consists of, beside `Network.known` and those of
            torch.nn and torch.optim. Nothing else can be named by what is read, and nothing is imported.

        Raises
        ------
        StorageError
            If a file is missing, changed, or of another format version.
        ModelError
            If it was saved without its architecture (the message says why), or uses what is not known.
        """
        return read(cls, directory, [*known, *cls.known])

    def load(self, directory: str) -> Network:
        """Put the weights that `save` wrote into this network's module, and the normaliser into its place.

        Raises
        ------
        StorageError
            If a file is missing, changed, or of another format version.
        ModelError
            If the weights are those of another architecture, or there is a normaliser in one place only; the message
            names the first difference.
        """
        load(self, directory)
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

        if self.normalizer is not None and not self.normalizer.is_fitted:
            raise ModelError("Network.normalizer is not fitted: give the network what normalizer.fit(...) returns")
        for name in ("module", "loss", "optimizer", "lr_scheduler", "output", "normalizer"):
            try:
                cloudpickle.dumps(getattr(self, name))
            except (TypeError, AttributeError, ValueError, RuntimeError, RecursionError, pickle.PicklingError) as error:
                raise ModelError(
                    f"Network.{name} cannot travel to the workers: {error}. Keep open files, locks, sessions, lambdas "
                    "with such state and hooks out of it, or make them on first use"
                ) from error
