"""The options of `SharedUpdates`, checked: by it, and by whoever takes them early to hand them on."""

from __future__ import annotations

from hvdspark.codec import (
    AdaptiveThresholdAlgorithm,
    ResidualClippingPostProcessor,
    ResidualPostProcessor,
    ThresholdAlgorithm,
)
from hvdspark.errors import ConfigurationError, UnsupportedError

__all__ = ["DEFAULT_POST_PROCESSOR", "DEFAULT_THRESHOLD_ALGORITHM", "check_options"]

DEFAULT_THRESHOLD_ALGORITHM: ThresholdAlgorithm = AdaptiveThresholdAlgorithm()
DEFAULT_POST_PROCESSOR: ResidualPostProcessor = ResidualClippingPostProcessor(5.0, 5)

_CHOICES = {
    "encode": ("updates", "gradients"),
    "combine": ("mean", "sum"),
    "exchange": ("codec", "dense"),
}


def check_options(
    *,
    encode: str,
    combine: str,
    exchange: str,
    threshold_algorithm: ThresholdAlgorithm,
    residual_post_processor: ResidualPostProcessor | None,
) -> None:
    """Refuse values that are no choice, and codec options that cannot act because nothing is coded.

    Raises
    ------
    ConfigurationError, UnsupportedError
        Naming the option.
    """
    for name, value in (("encode", encode), ("combine", combine), ("exchange", exchange)):
        if value not in _CHOICES[name]:
            raise ConfigurationError(f"{name}: one of {_CHOICES[name]} is needed, not {value!r}")
    for name, part, kind, default in (
        ("threshold_algorithm", threshold_algorithm, ThresholdAlgorithm, DEFAULT_THRESHOLD_ALGORITHM),
        ("residual_post_processor", residual_post_processor, ResidualPostProcessor, DEFAULT_POST_PROCESSOR),
    ):
        if part is not None and not isinstance(part, kind):
            raise UnsupportedError(f"{name}: a {kind.__name__} is needed, this is a {type(part).__name__}")
        if exchange == "dense" and part != default:
            raise ConfigurationError(f'{name} cannot act with exchange="dense", where nothing is coded: leave it out')
