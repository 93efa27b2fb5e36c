"""The trainable parameters of a module as one flat buffer: copied out once, seen through views ever after."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from hvdspark.errors import ModelError, UnsupportedError

__all__ = ["FlatParameters", "mean_buffers_", "parameters_of"]


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Return the trainable parameters of an optimizer's groups, in their order, each once."""
    found: dict[int, nn.Parameter] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if parameter.requires_grad:
                found.setdefault(id(parameter), parameter)
    return list(found.values())


class FlatParameters:
    """Parameters as one contiguous `[n] float32` buffer of which each parameter becomes a view.

    The optimizer goes on working on the parameters; what reads or writes all weights at once works on the buffer.
    No copy is made after construction.

    Parameters
    ----------
    parameters : sequence of torch.nn.Parameter
        All float32, dense, on one device. Their storage is replaced: `p.data` becomes a view of the buffer.

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
        self.spans: list[tuple[int, int]] = []
        start = 0
        for parameter in self.parameters:
            self.spans.append((start, start + parameter.numel()))
            start += parameter.numel()
        self.n = start
        self.weights = torch.empty(self.n, dtype=torch.float32, device=self.parameters[0].device)
        for parameter, view in zip(self.parameters, self._views(self.weights), strict=True):
            view.copy_(parameter.detach())
            parameter.data = view

    def _views(self, flat: torch.Tensor) -> list[torch.Tensor]:
        pairs = zip(self.parameters, self.spans, strict=True)
        return [flat[start:stop].view(parameter.shape) for parameter, (start, stop) in pairs]

    def check_bound(self) -> None:
        """Make sure that the parameters are still views of the buffer (ModelError otherwise).

        `module.to(...)`, `module.half()` and assignments to `p.data` after construction break the binding.
        """
        base, size = self.weights.data_ptr(), self.weights.element_size()
        for parameter, (start, _) in zip(self.parameters, self.spans, strict=True):
            if parameter.data_ptr() != base + start * size:
                raise ModelError(
                    f"a parameter of shape {list(parameter.shape)} was moved or replaced after its optimizer "
                    "was wrapped: move the module to its device first, then make the optimizer and wrap it"
                )

    def gather_gradients(self, out: torch.Tensor) -> None:
        """Copy all gradients into `out` (`[n] float32`, same device); a missing gradient counts as zero."""
        for parameter, view in zip(self.parameters, self._views(out), strict=True):
            if parameter.grad is None:
                view.zero_()
            else:
                view.copy_(_dense(parameter.grad))

    def scatter_gradients(self, flat: torch.Tensor) -> None:
        """Make the gradients views of `flat` (`[n] float32`), whose owner may reuse it after the optimizer's step."""
        for parameter, view in zip(self.parameters, self._views(flat), strict=True):
            parameter.grad = view

    def zero_missing_gradients(self) -> None:
        """Give every parameter without a gradient one of zeros."""
        for parameter in self.parameters:
            if parameter.grad is None:
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

    def fingerprint(self) -> int:
        """Compute a 32-bit checksum of the weights' bits: equal on all ranks after every synchronisation."""
        return zlib.crc32(self.weights.detach().cpu().numpy().data)


def mean_buffers_(module: nn.Module, allreduce_: object, size: int) -> None:
    """Average the floating-point buffers of a module over all ranks, in place.

    Parameters
    ----------
    module : torch.nn.Module
        Its floating-point buffers (BatchNorm's running statistics) are averaged; integer ones count steps, which are
        equal everywhere, and are left.
    allreduce_ : callable
        Sums a contiguous `[m] float32` array over ranks, in place.
    size : int
        How many ranks there are.
    """
    buffers = [buffer for buffer in module.buffers() if buffer.is_floating_point() and buffer.numel()]
    if not buffers or size == 1:
        return
    assert callable(allreduce_)
    flat: NDArray[np.float32] = torch.cat([buffer.detach().reshape(-1).float().cpu() for buffer in buffers]).numpy()
    allreduce_(flat)
    flat /= np.float32(size)
    start = 0
    for buffer in buffers:
        part = torch.from_numpy(flat[start : start + buffer.numel()]).view(buffer.shape)
        buffer.copy_(part)
        start += buffer.numel()


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
        raise UnsupportedError(f"parameters must be float32, some are {', '.join(wrong)}: call module.float() first")
    devices = sorted({str(p.device) for p in parameters})
    if len(devices) > 1:
        raise UnsupportedError(f"parameters must be on one device, these are on {', '.join(devices)}")
