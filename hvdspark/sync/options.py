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
    "magnitude": ("threshold", "mean"),
    "threshold_scope": ("model", "group", "parameter"),
}
_DEFAULTS = {
    "threshold_algorithm": DEFAULT_THRESHOLD_ALGORITHM,
    "residual_post_processor": DEFAULT_POST_PROCESSOR,
    "magnitude": "threshold",
    "threshold_scope": "model",
    "encoding_debug_mode": False,
}


def check_options(
    *,
    encode: str,
    combine: str,
    exchange: str,
    threshold_algorithm: ThresholdAlgorithm,
    residual_post_processor: ResidualPostProcessor | None,
    magnitude: str,
    threshold_scope: str,
    encoding_debug_mode: object,
) -> None:
    """Refuse values that are no choice, and codec options that cannot act because nothing is coded.

    Raises
    ------
    ConfigurationError, UnsupportedError
        Naming the option.
    """
    given = {
        "encode": encode,
        "combine": combine,
        "exchange": exchange,
        "threshold_algorithm": threshold_algorithm,
        "residual_post_processor": residual_post_processor,
        "magnitude": magnitude,
        "threshold_scope": threshold_scope,
        "encoding_debug_mode": encoding_debug_mode,
    }
    for name, choices in _CHOICES.items():
        if given[name] not in choices:
            raise ConfigurationError(f"{name}: one of {choices} is needed, not {given[name]!r}")
    for name, kind in (
        ("threshold_algorithm", ThresholdAlgorithm),
        ("residual_post_processor", ResidualPostProcessor),
    ):
        if given[name] is not None and not isinstance(given[name], kind):
            raise UnsupportedError(f"{name}: a {kind.__name__} is needed, this is a {type(given[name]).__name__}")
    if not isinstance(encoding_debug_mode, bool) and not callable(encoding_debug_mode):
        raise ConfigurationError(f"encoding_debug_mode: True, False or a function, not {encoding_debug_mode!r}")
    for name, default in _DEFAULTS.items():
        if exchange == "dense" and given[name] != default:
            raise ConfigurationError(f'{name} cannot act with exchange="dense", where nothing is coded: leave it out')
