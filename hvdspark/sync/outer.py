"""The outer optimizer: what is made of the difference that the ranks have agreed on."""

from __future__ import annotations

import torch
from pydantic import Field

from hvdspark.config import Configuration

__all__ = ["Nesterov", "OuterStep"]


class Nesterov(Configuration):
    """Nesterov momentum on the agreed difference of weights, as in DiLoCo; SlowMo's idea.

    Douillard et al., "DiLoCo: Distributed Low-Communication Training of Language Models", 2023, algorithm 1; Wang et
    al., "SlowMo", ICLR 2020. ``Nesterov(1.0, 0.0)`` takes the difference as it is. With threshold codes a momentum of
    0.9 has been seen to diverge; start from ``Nesterov(0.7, 0.5)``.

    Parameters
    ----------
    lr : float
        What the difference is multiplied by; above 0.
    momentum : float
        From 0 to below 1.
    """

    lr: float = Field(gt=0, allow_inf_nan=False)
    momentum: float = Field(ge=0, lt=1)

    def __init__(self, lr: float, momentum: float) -> None:
        super().__init__(lr=lr, momentum=momentum)


class OuterStep:
    """Takes the steps of an outer optimizer; equal on all ranks, bit for bit.

    Parameters
    ----------
    rule : Nesterov
        What it does.
    like : torch.Tensor
        `[n] float32`; the velocity is kept where this is.

    Attributes
    ----------
    velocity, difference : torch.Tensor
        `[n] float32`; the second is the caller's to fill before `apply`.
    """

    def __init__(self, rule: Nesterov, like: torch.Tensor) -> None:
        self._rule = rule
        self.velocity, self.difference = torch.zeros_like(like), torch.empty_like(like)

    def apply(self, agreed: torch.Tensor) -> None:
        """Move `agreed` (`[n] float32`) against `difference`, which is overwritten.

        Products are rounded before they are added: fused on one kind of CPU and not on another, ranks would part.
        """
        self.velocity.mul_(self._rule.momentum).add_(self.difference)
        self.difference.add_(self.velocity * self._rule.momentum)
        agreed.sub_(self.difference.mul_(self._rule.lr))
