"""The trainable parameters of a module as one flat buffer: copied out once, seen through views ever after."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hvdspark.collectives import Collective
from hvdspark.errors import ModelError, UnsupportedError

__all__ = ["FlatParameters", "as_array", "codec_device", "frozen_parameters", "mean_buffers_", "parameters_of"]


def as_array(tensor: torch.Tensor) -> Any:
    """Return what the codec works on: a NumPy array that shares a CPU tensor's memory, or the GPU tensor itself."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def codec_device(device: torch.device) -> torch.device:
    """Return where updates are coded: on the GPU of the weights, or on the host if nothing can code there."""
    if device.type == "cuda":
        from hvdspark.codec.cuda import why_not

        reason = why_not(device.index or 0)
        if reason is None:
            return device
        logging.getLogger("hvdspark").warning("updates are coded on the CPU: %s", reason)
    return torch.device("cpu")


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Return the trainable parameters of an optimizer's groups, in their order, each once."""
    found: dict[int, nn.Parameter] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.requires_grad:
                found.setdefault(id(parameter), parameter)
    return list(found.values())


def frozen_parameters(
    optimizer: torch.optim.Optimizer, named: Iterable[tuple[str, nn.Parameter]]
) -> list[nn.Parameter]:
    """Return the parameters that are not trained, each once, in an order that is the same on all ranks."""
    in_groups = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    trained = {id(parameter) for parameter in parameters_of(optimizer)}
    every = {id(parameter): parameter for parameter in (*in_groups, *(parameter for _, parameter in named))}
    return [parameter for key, parameter in every.items() if key not in trained]


class FlatParameters:
    """Parameters as one contiguous `[n] float32` buffer of which each parameter becomes a view.

    The optimizer goes on working on the parameters; what reads or writes all weights at once works on the buffer.
    No copy is made after construction.

    Parameters
    ----------
    parameters : sequence of torch.nn.Parameter
        All float32, dense, on one device: an agreed update is often smaller than half the distance from one 16-bit
        number to the next, and adding it to such a weight would lose it. Their storage is replaced: `p.data` becomes a
        view of the buffer.

    Attributes
    ----------
    weights : torch.Tensor
        `[n] float32`, the buffer itself.

    Raises
    ------
    UnsupportedError
        For other dtypes, several devices or sparse parameters; the message counts and shows them.
    ModelError
        If there is no trainable parameter.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        _check(parameters)
        self.parameters = list(parameters)
        self._known = {id(parameter) for parameter in self.parameters}
        self.spans: list[tuple[int, int]] = []
        start = 0
        for parameter in self.parameters:
            self.spans.append((start, start + parameter.numel()))
            start += parameter.numel()
        self.n = start
        self.weights = torch.empty(self.n, dtype=torch.float32, device=self.parameters[0].device)
        for parameter, view in zip(self.parameters, self.views(self.weights), strict=True):
            view.copy_(parameter.detach())
            parameter.data = view

    def views(self, flat: torch.Tensor) -> list[torch.Tensor]:
        """Return the part of each parameter in a buffer like `weights`, in the parameter's shape; nothing is copied."""
        pairs = zip(self.parameters, self.spans, strict=True)
        return [flat[start:stop].view(parameter.shape) for parameter, (start, stop) in pairs]

    def check_bound(self, optimizer: torch.optim.Optimizer) -> None:
        """Make sure that the parameters are still views of the buffer, and that there are no others.

        `module.to(...)`, `module.half()` and assignments to `p.data` after construction break the binding.

        Raises
        ------
        ModelError
            If a parameter is no view any more, or one is trained that was not when the optimizer was wrapped.
        """
        base, size = self.weights.data_ptr(), self.weights.element_size()
        for parameter, (start, _) in zip(self.parameters, self.spans, strict=True):
            if parameter.numel() and parameter.data_ptr() != base + start * size:
                raise ModelError(
                    f"a parameter of shape {list(parameter.shape)} was moved or replaced after its optimizer "
                    "was wrapped: move the module to its device first, then make the optimizer and wrap it"
                )
        for parameter in parameters_of(optimizer):
            if id(parameter) not in self._known:
                raise ModelError(
                    f"a parameter of shape {list(parameter.shape)} was unfrozen or added after the optimizer was "
                    "wrapped, so ranks would train it apart: make the optimizer and wrap it anew"
                )

    def with_gradient(self) -> NDArray[np.bool_]:
        """Tell which parameters have a gradient, `[parameters] bool`."""
        return np.array([parameter.grad is not None for parameter in self.parameters])

    def gather_gradients(self, out: torch.Tensor) -> None:
        """Copy all gradients into `out` (`[n] float32`, same device); a missing gradient counts as zero."""
        for parameter, view in zip(self.parameters, self.views(out), strict=True):
            if parameter.grad is None:
                view.zero_()
            else:
                view.copy_(_dense(parameter.grad))

    def note_active(self, flat: torch.Tensor, active: NDArray[np.bool_]) -> None:
        """Mark the parameters whose part of `flat` (`[n] float32`) is not zero as active, in place."""
        for position in np.flatnonzero(~active):
            start, stop = self.spans[position]
            active[position] = bool(flat[start:stop].any())

    def scatter_gradients(self, flat: torch.Tensor, active: NDArray[np.bool_]) -> None:
        """Make the gradients of the active parameters views of `flat` (`[n] float32`), and those of others None.

        The owner of `flat` may reuse it after the optimizer's step.
        """
        for parameter, view, is_active in zip(self.parameters, self.views(flat), active, strict=True):
            parameter.grad = view if is_active and parameter.requires_grad else None

    def zero_missing_gradients(self, active: NDArray[np.bool_]) -> None:
        """Give active parameters without a gradient one of zeros; frozen ones and those never used stay without."""
        for parameter, is_active in zip(self.parameters, active.tolist(), strict=True):
            if is_active and parameter.grad is None and parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)

    def scale_gradients(self, factor: float) -> None:
        """Multiply all gradients in place; nothing is touched for a factor of one."""
        if factor != 1.0:
            for parameter in self.parameters:
                if parameter.grad is not None:
                    parameter.grad.mul_(factor)

    def names(self, named: Iterable[tuple[str, nn.Parameter]] | None) -> list[tuple[str, int, int]]:
        """Return (name, start, stop) of each parameter in the buffer; without names, its position counts."""
        known = {id(parameter): name for name, parameter in named or ()}
        return [
            (known.get(id(parameter), f"parameter {position}"), start, stop)
            for position, (parameter, (start, stop)) in enumerate(zip(self.parameters, self.spans, strict=True))
        ]

    def group_ends(self, optimizer: torch.optim.Optimizer, scope: str) -> list[int] | None:
        """Return where the elements end that have a threshold of their own.

        Parameters
        ----------
        optimizer : torch.optim.Optimizer
            Whose parameters these are.
        scope : {"model", "group", "parameter"}
            What has one: all elements (then None is returned), each parameter group, or each parameter.
        """
        if scope == "model":
            return None
        stops = {id(parameter): stop for parameter, (_, stop) in zip(self.parameters, self.spans, strict=True)}
        if scope == "parameter":
            return list(stops.values())
        groups = ([stops.get(id(parameter), 0) for parameter in group["params"]] for group in optimizer.param_groups)
        return sorted({max(ends) for ends in groups if any(ends)})

    def fingerprint(self) -> int:
        """Compute a 32-bit checksum of the weights' bits: equal on all ranks after every synchronisation."""
        return zlib.crc32(self.weights.detach().cpu().numpy().data)


def mean_buffers_(module: nn.Module, collective: Collective) -> None:
    """Average the floating-point buffers of a module over all ranks, in place.

    Parameters
    ----------
    module : torch.nn.Module
        Its floating-point buffers (BatchNorm's running statistics), of any width, are averaged in float64 and rounded
        to their own dtype at the end. What is equal on all ranks keeps its bits. Integer buffers count steps, which are
        equal everywhere, and are left.
    collective : Collective
        The ranks; all of them call this.
    """
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point() and buffer.numel()]
    if not buffers or collective.size == 1:
        return
    own = torch.cat([buffer.detach().reshape(-1).double().cpu() for buffer in buffers]).numpy()
    first = own.copy()
    collective.broadcast_(first)
    # Sums of differences: sums of equal numbers, divided again, may be others, and constants may be infinite.
    total = np.zeros_like(own)
    np.subtract(own, first, out=total, where=own != first)
    collective.allreduce_(total)
    start = 0
    for buffer in buffers:
        part = slice(start, start + buffer.numel())
        start = part.stop
        if total[part].any():  # else nothing is written: a buffer may be a view that cannot be written to
            mean = first[part] + total[part] / collective.size
            buffer.copy_(torch.from_numpy(mean).view(buffer.shape))


def _dense(gradient: torch.Tensor) -> torch.Tensor:
    if gradient.is_sparse:
        raise UnsupportedError(
            "a sparse gradient cannot be exchanged: make the embedding with sparse=False (what is sent stays sparse)"
        )
    return gradient


def _check(parameters: Sequence[nn.Parameter]) -> None:
    if not parameters:
        raise ModelError("the optimizer has no trainable parameters: nothing to synchronise")
    wrong = sorted({str(p.dtype) for p in parameters if p.dtype != torch.float32})
    if wrong:
        raise UnsupportedError(
            f"parameters that are trained must be float32, some are {', '.join(wrong)}: call module.float() first, and "
            "to compute in 16 bits run the forward pass under torch.autocast; frozen ones may be of any dtype"
        )
    devices = sorted({str(p.device) for p in parameters})
    if len(devices) > 1:
        raise UnsupportedError(f"parameters must be on one device, these are on {', '.join(devices)}")
