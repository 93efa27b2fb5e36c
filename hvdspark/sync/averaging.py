"""ParameterAveraging: a torch Optimizer that takes local steps and then averages the weights of all ranks.

Deeplearning4j's parameter averaging, and local SGD: Stich, "Local SGD Converges Fast and Communicates Little", ICLR
2019. It is `SharedUpdates` with several local steps and no code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn

from hvdspark.collectives import Collective
from hvdspark.errors import ConfigurationError
from hvdspark.sync.base import Exchange
from hvdspark.sync.dense import DenseExchange
from hvdspark.sync.outer import Nesterov
from hvdspark.sync.period import LocalSteps, checked_local_steps
from hvdspark.sync.rules import Rules
from hvdspark.sync.synchroniser import Synchroniser
from hvdspark.sync.updater import UpdaterAverage

__all__ = ["ParameterAveraging", "check_aggregation_depth"]


def check_aggregation_depth(depth: object) -> None:
    """Refuse what is no number of storeys.

    Raises
    ------
    ConfigurationError
        Saying why.
    """
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
        raise ConfigurationError(
            f"aggregation_depth: a whole number from 1 is needed, not {depth!r}: 1 is all ranks at once, 2 the ranks "
            "of a host first, more a tree of hosts"
        )


class ParameterAveraging(Synchroniser):
    """Wraps a rank's optimizer: every so many steps, all ranks go on from the mean of their weights.

    Parameters
    ----------
    optimizer : torch.optim.Optimizer
        The rank's own; its parameter groups stay in charge, so learning-rate schedulers act on either.
    collective : Collective
        The ranks, from `open_collective`. Rank 0's weights are broadcast here, frozen ones of `named_parameters` too.
        Buffers are not: make the module from one seed if it has any.
    averaging_frequency : int or pairs of int
        Steps between averagings; or a schedule such as ``((0, 1), (500, 10))``: 1, from step 500 on 10. Steps that are
        left over when training ends are averaged by `synchronise`: nothing is skipped.
    aggregation_depth : int
        1: all ranks at once; 2: where there are several hosts and one of them has several ranks, the ranks of a host
        come together first, and the hosts' first ranks meet for them. d > 2: these meet in a tree of at most d - 1
        levels, in groups of the smallest number whose (d - 1)th power is not below the number of hosts, and not below
        two: 16 hosts go by groups of four under 3, by pairs from 5 on. Sums go up, and their result comes down.
    save_updater : bool
        Average the optimizer's own state as well (momentum, second moments), weighted like the weights; what is a count
        there must be equal on all ranks. False: each rank keeps its own.
    outer_optimizer : Nesterov, optional
        What is made of the mean difference: outer momentum (SlowMo, DiLoCo).
    named_parameters : iterable of (str, Parameter), optional
        Names for error messages: ``model.named_parameters()``.
    verify_every : int
        Compare a checksum of the weights over all ranks every so many steps, at the averaging that follows; 0 never.

    Raises
    ------
    RankMismatch
        On all ranks, if their parameters, options or versions differ.
    ConfigurationError, UnsupportedError, ModelError
        For an option or an optimizer that cannot be used.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        collective: Collective,
        *,
        averaging_frequency: LocalSteps = 5,
        aggregation_depth: int = 2,
        save_updater: bool = True,
        outer_optimizer: Nesterov | None = None,
        named_parameters: Iterable[tuple[str, nn.Parameter]] | None = None,
        verify_every: int = 100,
    ) -> None:
        if not isinstance(save_updater, bool):
            raise ConfigurationError(f"save_updater: True or False is needed, not {save_updater!r}")
        check_aggregation_depth(aggregation_depth)
        self._save_updater = save_updater
        schedule = checked_local_steps(averaging_frequency, "averaging_frequency")
        rules = Rules(
            schedule=schedule,
            outer=outer_optimizer,
            topology="flat" if aggregation_depth == 1 else "auto",
            aggregation_depth=aggregation_depth,
            verify_every=verify_every,
        )
        facts = {"averaging_frequency": schedule, "save_updater": save_updater}
        super().__init__(optimizer, collective, rules, facts, named_parameters)

    def _open(
        self, run_id: int, named: list[tuple[str, nn.Parameter]]
    ) -> tuple[Exchange, Sequence[Callable[[float], None]]]:
        del run_id  # no message carries it
        exchange = DenseExchange(self._collective, self._flat.n, self._phases, self._hosts)
        if not self._save_updater or self._collective.size == 1:
            return exchange, ()
        names = [name for name, _, _ in self._flat.names(named)]
        average = UpdaterAverage(
            self._collective, self._optimizer, self._flat.parameters, names, self._phases, self._hosts
        )
        return exchange, (average.average,)
