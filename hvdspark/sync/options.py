"""The options of `SharedUpdates`, checked: by it, and by whoever takes them early to hand them on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

from hvdspark.codec import (
    AdaptiveThresholdAlgorithm,
    EncodingRecord,
    ResidualClippingPostProcessor,
    ResidualPostProcessor,
    ThresholdAlgorithm,
)
from hvdspark.errors import ConfigurationError, UnsupportedError

__all__ = [
    "DEFAULT_POST_PROCESSOR", "DEFAULT_THRESHOLD_ALGORITHM", "UNCODED", "CodecOptions", "ExchangeName", "check_options",
]  # fmt: skip

ExchangeName = Literal["codec", "regions", "dense", "fp16", "auto"]

DEFAULT_THRESHOLD_ALGORITHM: ThresholdAlgorithm = AdaptiveThresholdAlgorithm()
DEFAULT_POST_PROCESSOR: ResidualPostProcessor = ResidualClippingPostProcessor(5.0, 5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodecOptions:
    """The options that act where updates are coded, by the names and with the meaning they have in `SharedUpdates`."""

    threshold_algorithm: ThresholdAlgorithm = DEFAULT_THRESHOLD_ALGORITHM
    residual_post_processor: ResidualPostProcessor | None = DEFAULT_POST_PROCESSOR
    magnitude: Literal["threshold", "mean", "multiples"] = "threshold"
    threshold_scope: Literal["model", "group", "parameter"] = "model"
    momentum_masking: Literal["auto"] | bool = "auto"
    encoding_debug_mode: bool | Callable[[EncodingRecord], None] = False
    num_threads: int | None = None

    def facts(self) -> dict[str, Any]:
        """Return what must be equal on all ranks."""
        return {
            "threshold_algorithm": repr(self.threshold_algorithm),
            "residual_post_processor": repr(self.residual_post_processor),
            "magnitude": self.magnitude,
            "threshold_scope": self.threshold_scope,
        }


UNCODED = ("dense", "fp16")
"""Exchanges that the codec has no part in."""

BY_REGION = ("regions", "fp16")
"""Exchanges in which each rank sums a region for all."""

_CHOICES = {
    "encode": ("updates", "gradients"),
    "combine": ("mean", "sum"),
    "exchange": get_args(ExchangeName),
    "magnitude": ("threshold", "mean", "multiples"),
    "threshold_scope": ("model", "group", "parameter"),
    "momentum_masking": ("auto", True, False),
}
_KINDS = {"threshold_algorithm": ThresholdAlgorithm, "residual_post_processor": ResidualPostProcessor}


def check_options(
    encode: str, combine: str, exchange: str, codec: CodecOptions, topology: str = "auto", lookahead: float = 0.0
) -> None:
    """Refuse values that are no choice, and codec options that cannot act because nothing is coded.

    Raises
    ------
    ConfigurationError, UnsupportedError
        Naming the option.
    """
    given = {"encode": encode, "combine": combine, "exchange": exchange, **vars(codec)}
    for name, choices in _CHOICES.items():
        if not any(type(given[name]) is type(choice) and given[name] == choice for choice in choices):
            raise ConfigurationError(f"{name}: one of {choices} is needed, not {given[name]!r}")
    for name, kind in _KINDS.items():
        if given[name] is not None and not isinstance(given[name], kind):
            raise UnsupportedError(f"{name}: a {kind.__name__} is needed, this is a {type(given[name]).__name__}")
    if not isinstance(codec.encoding_debug_mode, bool) and not callable(codec.encoding_debug_mode):
        raise ConfigurationError(f"encoding_debug_mode: True, False or a function, not {codec.encoding_debug_mode!r}")
    if codec.momentum_masking is True and encode == "gradients":
        raise ConfigurationError(
            'momentum_masking=True cannot act with encode="gradients", where momentum comes after the exchange: leave '
            'it at "auto"'
        )
    _check_regions(exchange, topology, codec)
    if lookahead and exchange != "codec":
        raise ConfigurationError(
            f'residual_lookahead cannot act with exchange="{exchange}": only "codec" leaves all that a rank has not '
            "sent with that rank; leave it out"
        )
    for field in dataclasses.fields(codec):
        if exchange in UNCODED and given[field.name] != field.default:
            raise ConfigurationError(
                f'{field.name} cannot act with exchange="{exchange}", where nothing is coded: leave it out'
            )


def _check_regions(exchange: str, topology: str, codec: CodecOptions) -> None:
    """Refuse what cannot act where each rank sums a region for all."""
    if exchange in BY_REGION and topology == "hosts":
        raise ConfigurationError(
            f'topology="hosts" cannot act with exchange="{exchange}", where each rank sums a region for all: '
            "leave it out"
        )
    if exchange == "regions" and codec.threshold_scope != "model":
        raise ConfigurationError(
            f'threshold_scope="{codec.threshold_scope}" cannot act with exchange="regions", where owners go by one '
            "threshold (docs/adr/0014): leave it out"
        )
