"""How ranks come to agree: what a synchroniser is told of it."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

from hvdspark.errors import ConfigurationError, UnsupportedError
from hvdspark.sync.hosts import TOPOLOGIES
from hvdspark.sync.outer import Nesterov

__all__ = ["Rules"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """How ranks come to agree.

    Parameters
    ----------
    encode : {"updates", "gradients"}
        What is exchanged.
    combine : {"mean", "sum"}
        How ranks' parts are joined.
    schedule : tuple of (int, int)
        From which step on, how many local steps a period has.
    outer : Nesterov, optional
        What is made of the agreed difference.
    lookahead : float
        Share of its residual that a rank applies to its own weights for the length of a period.
    overlap : {"none", "next_step"}
        Whether an exchange is under way while the next step computes.
    topology : {"auto", "flat", "hosts"}
        Whether ranks of a host come together first.
    aggregation_depth : int
        Storeys of ranks, hosts and groups of hosts; 1: none, ranks meet all at once.
    verify_every : int
        Steps between comparisons of the weights; 0 never.
    """

    encode: Literal["updates", "gradients"] = "updates"
    combine: Literal["mean", "sum"] = "mean"
    schedule: tuple[tuple[int, int], ...] = ((0, 1),)
    outer: Nesterov | None = None
    lookahead: float = 0.0
    overlap: Literal["none", "next_step"] = "none"
    topology: Literal["auto", "flat", "hosts"] = "auto"
    aggregation_depth: int = 2
    verify_every: int = 100

    def facts(self) -> dict[str, Any]:
        """Return what must be equal on all ranks; whoever made the schedule names it."""
        facts = {name: value for name, value in vars(self).items() if name not in ("schedule", "outer", "lookahead")}
        return {**facts, "outer_optimizer": repr(self.outer), "residual_lookahead": self.lookahead}

    def scale(self, size: int) -> float:
        """Return what each of so many ranks' parts is multiplied by before they are summed."""
        return 1.0 / size if self.combine == "mean" else 1.0

    def __post_init__(self) -> None:
        if not isinstance(self.verify_every, int) or self.verify_every < 0:
            raise ConfigurationError(f"verify_every: a whole number from 0 is needed, not {self.verify_every!r}")
        if self.overlap not in ("none", "next_step"):
            raise ConfigurationError(f"overlap: one of ('none', 'next_step') is needed, not {self.overlap!r}")
        if self.overlap == "next_step" and (self.outer or self.schedule != ((0, 1),) or self.encode == "gradients"):
            raise ConfigurationError(
                'overlap="next_step" cannot act with local_steps, outer_optimizer or encode="gradients": it sends the '
                "update of every single step"
            )
        if self.topology not in TOPOLOGIES:
            raise ConfigurationError(f"topology: one of {TOPOLOGIES} is needed, not {self.topology!r}")
        if self.outer is not None and not isinstance(self.outer, Nesterov):
            raise UnsupportedError(f"outer_optimizer: a Nesterov is needed, this is a {type(self.outer).__name__}")
        self._check_lookahead()
        if self.encode == "gradients" and (self.outer or self.schedule != ((0, 1),)):
            raise ConfigurationError(
                'local_steps and outer_optimizer cannot act with encode="gradients", where there is no local step: '
                'use encode="updates"'
            )

    def _check_lookahead(self) -> None:
        given = self.lookahead
        if isinstance(given, bool) or not isinstance(given, int | float) or not 0 <= given <= 1:
            raise ConfigurationError(f"residual_lookahead: a number from 0 to 1 is needed, not {given!r}")
        if given and all(steps == 1 for _, steps in self.schedule):
            raise ConfigurationError(
                "residual_lookahead cannot act with local_steps=1, where all ranks have the same weights after every "
                "step: ask for more local steps, or leave it out"
            )
        if given and self.topology == "hosts":
            raise ConfigurationError(
                'residual_lookahead cannot act with topology="hosts", where a host has one residual for all of its '
                "ranks: leave one of them out"
            )
