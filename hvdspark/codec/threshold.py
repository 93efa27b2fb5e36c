"""Threshold algorithms: how large an element must be to be sent.

The rules are Deeplearning4j's (AdaptiveThresholdAlgorithm, TargetSparsityThresholdAlgorithm), with two additions: a
start of ``"auto"`` takes the threshold from the first update instead of a constant that fits no model, and
QuantileThresholdAlgorithm takes each from its own.
"""

import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, model_validator

from hvdspark.config import Configuration, Kind, rebuild

__all__ = [
    "DENSE_DENSITY",
    "AdaptiveThresholdAlgorithm",
    "AnyThresholdAlgorithm",
    "FixedThresholdAlgorithm",
    "Quantile",
    "QuantileThresholdAlgorithm",
    "TargetSparsityThresholdAlgorithm",
    "ThresholdAlgorithm",
    "ThresholdState",
]

DENSE_DENSITY = 1 / 16
"""The density that a dense message counts as, as in Deeplearning4j."""

Quantile = Callable[[float], float]
"""Gives the magnitude that a share of the elements of ``residual + update`` reaches; zero if all of them are zero."""

_MIN_THRESHOLD = 1e-12
_FEW_CODES = 16
_HALF_IN_20 = 0.5 ** (1 / 20)  # a factor of two in 20 encodes
_Decay = Annotated[float, Field(ge=0.5, lt=1.0)]
_Density = Annotated[float, Field(gt=0.0, le=1.0)]


@dataclass(frozen=True)
class ThresholdState:
    """What an algorithm knows of the encodes before: a value, which goes in and comes out.

    Attributes
    ----------
    iteration
        The number of encodes so far.
    threshold
        What the algorithm gave for the last one, not rounded, in units of the update; None while undecided.
    density
        The share of elements that the last message carried (a dense one counts as 1/16); None before the first.
    elements
        How many elements there are; None if that is not known.
    """

    iteration: int = 0
    threshold: float | None = None
    density: float | None = None
    elements: int | None = None


class ThresholdAlgorithm(Kind):
    """Chooses the threshold of each encode.

    An algorithm holds options only; what changes is the `ThresholdState`. To have an own one rebuilt from JSON, add its
    class to ``ThresholdAlgorithm.known``.
    """

    known: ClassVar[list[type["ThresholdAlgorithm"]]] = []
    """The classes that `from_json` and `from_yaml` of this class can make."""

    @abstractmethod
    def next_threshold(self, state: ThresholdState, quantile: Quantile) -> float | None:
        """Return the threshold for the encode that comes now, above zero.

        Law: the result depends on the arguments alone.

        Parameters
        ----------
        state
            What the encodes before left.
        quantile
            ``quantile(density)`` reads residual and update and costs as much as an encode: call it only where needed.

        Returns
        -------
        float or None
            None where nothing can be said yet, since all elements are zero: an empty message is sent.
        """

    @classmethod
    def _from_mapping(cls, options: Any) -> Self:
        if cls is not ThresholdAlgorithm:
            return super()._from_mapping(options)
        made: Self = rebuild(options, cls.known)  # type: ignore[assignment]  # cls is the base, Self any of its classes
        return made


def _read_algorithm(given: Any) -> Any:
    return rebuild(given, ThresholdAlgorithm.known) if isinstance(given, dict) else given


AnyThresholdAlgorithm = Annotated[SerializeAsAny[ThresholdAlgorithm], BeforeValidator(_read_algorithm)]
"""The type of a configuration field that takes any threshold algorithm, also from JSON."""


def _check_initial(given: Any) -> Any:
    number = given if isinstance(given, int | float) and not isinstance(given, bool) else None
    if isinstance(given, str) and given != "auto":
        try:
            number = float(given)  # YAML reads 1e-3 as text
        except ValueError:
            number = None
    if given == "auto" or (number is not None and math.isfinite(number) and number >= _MIN_THRESHOLD):
        return given if number is None else float(number)
    raise ValueError(f"must be 'auto' or a number of at least {_MIN_THRESHOLD}")


_Initial = Annotated[float | Literal["auto"], BeforeValidator(_check_initial)]


def _initial(
    initial: float | Literal["auto"], density: float, state: ThresholdState, quantile: Quantile
) -> float | None:
    """Return the threshold to start with; with ``"auto"`` the one that gives `density` now."""
    if initial != "auto":
        return initial
    return quantile(density) or state.threshold


def _has_failed(initial: float | Literal["auto"], state: ThresholdState, target: float) -> bool:
    """Tell whether an automatic threshold turned out far too small: by a density far above what is wanted.

    A few codes are no sign of it, though they may be a large share of a small group.
    """
    density = state.density or 0.0
    few = state.elements is not None and density * state.elements < _FEW_CODES
    return initial == "auto" and density >= max(DENSE_DENSITY, 4 * target) and not few


class FixedThresholdAlgorithm(ThresholdAlgorithm):
    """The same threshold for every encode.

    Parameters
    ----------
    threshold
        In units of the update, at least 1e-12.
    """

    threshold: float = Field(ge=_MIN_THRESHOLD, allow_inf_nan=False)

    def __init__(self, threshold: float) -> None:
        Configuration.__init__(self, threshold=threshold)

    def next_threshold(self, state: ThresholdState, quantile: Quantile) -> float | None:  # noqa: ARG002  # it is fixed
        """Return the threshold."""
        return self.threshold


class AdaptiveThresholdAlgorithm(ThresholdAlgorithm):
    """Keeps the density of messages inside a band: below it the threshold shrinks, above it grows, by a fixed factor.

    Parameters
    ----------
    initial_threshold
        In units of the update, at least 1e-12 (Deeplearning4j: 1e-4), or ``"auto"``: the quantile of the first update
        that gives the geometric mean of the band; taken again
        whenever the density reaches 1/16 and four times the target, with 16 codes at least.
    min_target_sparsity, max_target_sparsity
        The band: shares of elements sent. The threshold does not change inside it.
    decay_rate
        The factor, in [0.5, 1). The default halves or doubles the threshold in 20 encodes.
    """

    initial_threshold: _Initial = "auto"
    min_target_sparsity: _Density = 1e-4
    max_target_sparsity: _Density = 1e-2
    decay_rate: _Decay = _HALF_IN_20

    def __init__(
        self,
        initial_threshold: float | Literal["auto"] = "auto",
        min_target_sparsity: float = 1e-4,
        max_target_sparsity: float = 1e-2,
        decay_rate: float = _HALF_IN_20,
    ) -> None:
        Configuration.__init__(
            self,
            initial_threshold=initial_threshold,
            min_target_sparsity=min_target_sparsity,
            max_target_sparsity=max_target_sparsity,
            decay_rate=decay_rate,
        )

    @model_validator(mode="after")
    def _check_band(self) -> Self:
        if self.min_target_sparsity > self.max_target_sparsity:
            raise ValueError(
                f"AdaptiveThresholdAlgorithm: min_target_sparsity {self.min_target_sparsity} is above "
                f"max_target_sparsity {self.max_target_sparsity}"
            )
        return self

    def next_threshold(self, state: ThresholdState, quantile: Quantile) -> float | None:
        """Return the last threshold, moved by the decay rate if the last density was outside the band."""
        if (
            state.threshold is None
            or state.density is None
            or _has_failed(self.initial_threshold, state, self.max_target_sparsity)
        ):
            middle = math.sqrt(self.min_target_sparsity * self.max_target_sparsity)
            return _initial(self.initial_threshold, middle, state, quantile)
        if state.density < self.min_target_sparsity:
            return state.threshold * self.decay_rate
        if state.density > self.max_target_sparsity:
            return state.threshold / self.decay_rate
        return state.threshold


class QuantileThresholdAlgorithm(ThresholdAlgorithm):
    """Gives every message the density asked for: its threshold is the quantile of what there is to send.

    Elements of equal magnitude go together: more are sent where many are equal, and fewer where fewer than asked for
    differ from zero.

    For local steps: a few hundred exchanges are too few for a threshold that is steered from one to the next, and
    what there is to send changes with the learning rate. Each rank has its own threshold, and reading the quantile
    costs about as much as an encode. It is exact up to a million elements, and from a sample of them beyond.

    Parameters
    ----------
    sparsity_target
        The share of elements to send, in (0, 1).
    """

    sparsity_target: float = Field(default=1e-2, gt=0.0, lt=1.0)

    def __init__(self, sparsity_target: float = 1e-2) -> None:
        Configuration.__init__(self, sparsity_target=sparsity_target)

    def next_threshold(self, state: ThresholdState, quantile: Quantile) -> float | None:
        """Return the quantile; where all elements are zero, the last threshold."""
        return quantile(self.sparsity_target) or state.threshold


class TargetSparsityThresholdAlgorithm(ThresholdAlgorithm):
    """Steers the density of messages towards one number; the threshold moves at every encode that misses it.

    Parameters
    ----------
    initial_threshold
        In units of the update, at least 1e-12 (Deeplearning4j: 1e-4), or ``"auto"``: the quantile of the first update
        that gives the target; taken again
        whenever the density reaches 1/16 and four times the target, with 16 codes at least.
    sparsity_target
        The share of elements to send, in (0, 1/16).
    decay_rate
        The factor of one move, in [0.5, 1). The default halves or doubles the threshold in 20 encodes.
    """

    initial_threshold: _Initial = "auto"
    sparsity_target: float = Field(default=1e-3, gt=0.0, lt=DENSE_DENSITY)
    decay_rate: _Decay = _HALF_IN_20

    def __init__(
        self,
        initial_threshold: float | Literal["auto"] = "auto",
        sparsity_target: float = 1e-3,
        decay_rate: float = _HALF_IN_20,
    ) -> None:
        Configuration.__init__(
            self, initial_threshold=initial_threshold, sparsity_target=sparsity_target, decay_rate=decay_rate
        )

    def next_threshold(self, state: ThresholdState, quantile: Quantile) -> float | None:
        """Return the last threshold, moved by the decay rate unless the last density was the target itself."""
        if (
            state.threshold is None
            or state.density is None
            or _has_failed(self.initial_threshold, state, self.sparsity_target)
        ):
            return _initial(self.initial_threshold, self.sparsity_target, state, quantile)
        if state.density < self.sparsity_target:
            return state.threshold * self.decay_rate
        if state.density > self.sparsity_target:
            return state.threshold / self.decay_rate
        return state.threshold


ThresholdAlgorithm.known += [
    AdaptiveThresholdAlgorithm, FixedThresholdAlgorithm, QuantileThresholdAlgorithm, TargetSparsityThresholdAlgorithm,
]  # fmt: skip
