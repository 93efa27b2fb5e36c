"""How ranks share what they learn, as plain data: the options of the synchronisers, by the same names."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import nn

from hvdspark.codec import EncodingRecord, ResidualPostProcessor, ThresholdAlgorithm
from hvdspark.collectives import Collective
from hvdspark.sync import (
    UNCODED,
    CodecOptions,
    ExchangeName,
    LocalSteps,
    Nesterov,
    ParameterAveraging,
    Rules,
    SharedUpdates,
    Synchroniser,
    check_aggregation_depth,
    check_options,
    checked_local_steps,
)

__all__ = ["AveragingOptions", "Sharing", "SharingOptions"]


class Sharing(abc.ABC):
    """What makes a synchroniser of a rank's optimizer."""

    @abc.abstractmethod
    def check(self) -> None:
        """Refuse what can be refused before there is a network.

        Raises
        ------
        ConfigurationError, UnsupportedError
            Naming the option.
        """

    @abc.abstractmethod
    def wrap(
        self,
        optimizer: torch.optim.Optimizer,
        world: Collective,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        num_threads: int,
        observer: Callable[[EncodingRecord], None],
    ) -> Synchroniser:
        """Make it.

        Parameters
        ----------
        optimizer : torch.optim.Optimizer
            The rank's own.
        world : Collective
            The ranks.
        named_parameters : iterable of (str, Parameter)
            Names for error messages.
        num_threads : int
            Threads of the codec, if there is one.
        observer : callable
            Is given what is encoded, where the options ask for it.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class SharingOptions(Sharing):
    """The options of `SharedUpdates`."""

    threshold_algorithm: ThresholdAlgorithm
    residual_post_processor: ResidualPostProcessor | None
    encode: Literal["updates", "gradients"]
    combine: Literal["mean", "sum"]
    exchange: ExchangeName
    magnitude: Literal["threshold", "mean", "multiples"]
    threshold_scope: Literal["model", "group", "parameter"]
    momentum_masking: Literal["auto"] | bool
    local_steps: LocalSteps
    residual_lookahead: float
    outer_optimizer: Nesterov | None
    overlap: Literal["none", "next_step"]
    topology: Literal["auto", "flat", "hosts"]
    encoding_debug_mode: bool

    def check(self) -> None:
        """Refuse what `SharedUpdates` would refuse."""
        codec = CodecOptions(
            threshold_algorithm=self.threshold_algorithm,
            residual_post_processor=self.residual_post_processor,
            magnitude=self.magnitude,
            threshold_scope=self.threshold_scope,
            momentum_masking=self.momentum_masking,
            encoding_debug_mode=self.encoding_debug_mode,
        )
        check_options(self.encode, self.combine, self.exchange, codec, self.topology, self.residual_lookahead)
        Rules(
            encode=self.encode,
            schedule=checked_local_steps(self.local_steps),
            outer=self.outer_optimizer,
            lookahead=self.residual_lookahead,
            overlap=self.overlap,
            topology=self.topology,
        )

    def wrap(
        self,
        optimizer: torch.optim.Optimizer,
        world: Collective,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        num_threads: int,
        observer: Callable[[EncodingRecord], None],
    ) -> SharedUpdates:
        """Make a `SharedUpdates`."""
        options = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return SharedUpdates(
            optimizer,
            world,
            **{**options, "encoding_debug_mode": observer if self.encoding_debug_mode else False},
            named_parameters=named_parameters,
            num_threads=None if self.exchange in UNCODED else num_threads,
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class AveragingOptions(Sharing):
    """The options of `ParameterAveraging`."""

    averaging_frequency: LocalSteps
    aggregation_depth: int
    save_updater: bool
    outer_optimizer: Nesterov | None

    def check(self) -> None:
        """Refuse what `ParameterAveraging` would refuse."""
        checked_local_steps(self.averaging_frequency, "averaging_frequency")
        check_aggregation_depth(self.aggregation_depth)

    def wrap(
        self,
        optimizer: torch.optim.Optimizer,
        world: Collective,
        named_parameters: Iterable[tuple[str, nn.Parameter]],
        num_threads: int,
        observer: Callable[[EncodingRecord], None],
    ) -> ParameterAveraging:
        """Make a `ParameterAveraging`."""
        del num_threads, observer  # nothing is coded
        return ParameterAveraging(
            optimizer,
            world,
            averaging_frequency=self.averaging_frequency,
            aggregation_depth=self.aggregation_depth,
            save_updater=self.save_updater,
            outer_optimizer=self.outer_optimizer,
            named_parameters=named_parameters,
        )
