"""An optimizer around another one: what every synchroniser has to be for torch."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
import torch

from hvdspark.collectives import Collective
from hvdspark.errors import UnsupportedError
from hvdspark.sync.flat import FlatParameters

__all__ = ["WrappedOptimizer"]


class WrappedOptimizer(torch.optim.Optimizer):
    """Wraps a rank's own optimizer; groups and state are the wrapped one's, so schedulers and users may act on either.

    Abstract: `step`, `state_dict` and `load_state_dict` are the subclass's.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        The rank's own.

    Raises
    ------
    UnsupportedError
        For LBFGS.
    """

    # GradScaler then calls `step` always and tells it what it found; else it would skip the step of one rank alone.
    _step_supports_amp_scaling = True
    grad_scale: torch.Tensor | None

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        if isinstance(optimizer, torch.optim.LBFGS):
            raise UnsupportedError(
                "LBFGS evaluates the model several times within a step, so its steps cannot be shared"
            )
        self._is_wrapped = False
        self._optimizer = optimizer
        groups, state = optimizer.param_groups, optimizer.state
        super().__init__(groups, optimizer.defaults)  # torch starts both anew, through the properties below
        self.param_groups, self.state = groups, state
        self._is_wrapped = True

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of the wrapped optimizer."""
        return self._optimizer.param_groups

    @param_groups.setter
    def param_groups(self, groups: list[dict[str, Any]]) -> None:
        self._optimizer.param_groups = groups

    @property
    def state(self) -> defaultdict[torch.Tensor, Any]:
        """The state of the wrapped optimizer."""
        return self._optimizer.state

    @state.setter
    def state(self, state: defaultdict[torch.Tensor, Any]) -> None:
        self._optimizer.state = state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Refuse new parameters: all ranks agreed on a set of them (allowed only while this is being built)."""
        if self._is_wrapped:
            raise UnsupportedError("parameters cannot be added after the optimizer was wrapped: wrap it again")
        super().add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:  # noqa: FBT001, FBT002 (torch's signature)
        """Reset the gradients, as torch's optimizers do."""
        self._optimizer.zero_grad(set_to_none=set_to_none)

    def _may_step(self, collective: Collective, flat: FlatParameters) -> bool:
        """Do what torch.amp.GradScaler leaves to an optimizer that it tells what it found; True without one.

        A step is skipped by all ranks or by none. Each rank's scaler goes on by what it found itself, so ranks may come
        to scale differently, which takes nothing from the gradients: they are unscaled here.
        """
        found = getattr(self, "found_inf", None)
        if found is None:
            return True
        skips = np.array([bool(found)], np.int32)
        collective.allreduce_(skips)
        if skips[0]:
            return False
        scale = self.grad_scale  # None where the user has unscaled them: to clip them, for example
        if scale is not None:
            flat.scale_gradients(1.0 / float(scale))
        return True

    def __getstate__(self) -> dict[str, Any]:
        raise UnsupportedError(
            f"a {type(self).__name__} holds the ranks' connection, so it can neither be copied nor pickled: "
            "use state_dict()"
        )
