"""Momentum masking: what was just sent loses its momentum, which belongs to weights of before."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hvdspark.errors import ConfigurationError
from hvdspark.sync.flat import FlatParameters

__all__ = ["MomentumMask", "has_momentum", "wants_mask"]

_BUFFER = "momentum_buffer"


def has_momentum(optimizer: torch.optim.Optimizer) -> bool:
    """Tell whether this is SGD with momentum."""
    return isinstance(optimizer, torch.optim.SGD) and any(group["momentum"] for group in optimizer.param_groups)


def wants_mask(given: object, optimizer: torch.optim.Optimizer, *, is_worth_it: bool) -> bool:
    """Decide about `momentum_masking`.

    Parameters
    ----------
    given : "auto", True or False
        What the user asked for.
    optimizer : torch.optim.Optimizer
        The rank's own.
    is_worth_it : bool
        Whether ``"auto"`` masks: where every step's update is coded, and where local steps look ahead.

    Raises
    ------
    ConfigurationError
        If it was asked for and there is no momentum to mask.
    """
    if given == "auto":
        return is_worth_it and has_momentum(optimizer)
    if given is True and not has_momentum(optimizer):
        raise ConfigurationError(
            "momentum_masking=True cannot act: it zeroes the momentum of torch.optim.SGD, and this is "
            f"{type(optimizer).__name__}{' without momentum' if isinstance(optimizer, torch.optim.SGD) else ''}; "
            'leave it at "auto"'
        )
    return bool(given)


class MomentumMask:
    """Zeroes the momentum of elements that a rank has sent.

    Lin et al., "Deep Gradient Compression", ICLR 2018, section 3.2: without it, momentum gathered before an element was
    sent goes on moving it after the other ranks have answered.

    Parameters
    ----------
    optimizer : torch.optim.SGD
        Its momentum buffers become views of one flat buffer, as the weights are.
    flat : FlatParameters
        The weights.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, flat: FlatParameters) -> None:
        self._optimizer = optimizer
        self._parameters = flat.parameters
        self._momentum = torch.zeros_like(flat.weights)
        self._views = flat.views(self._momentum)

    def clear(self, codes: NDArray[np.int32]) -> None:
        """Zero the momentum of ``codes`` (``[count] int32``, signed one-based indices)."""
        if not codes.size:
            return
        self._bind()
        where = torch.from_numpy(np.abs(codes).astype(np.int64) - 1).to(self._momentum.device)
        self._momentum.index_fill_(0, where, 0.0)

    def _bind(self) -> None:
        """Make views of what is none yet: buffers are made in the first step, and anew by load_state_dict."""
        for parameter, view in zip(self._parameters, self._views, strict=True):
            state: dict[str, Any] = self._optimizer.state.get(parameter, {})
            buffer = state.get(_BUFFER)
            if buffer is not None and buffer.data_ptr() != view.data_ptr():
                view.copy_(buffer)
                state[_BUFFER] = view
