"""Normalisers, under Deeplearning4j's names: fitted to data wherever they lie, and carried with the network.

`fit` returns a fitted copy. `Network(..., normalizer=fitted)` puts it in front of the module, so training, evaluation
and prediction see the same features; ``fit_labels=True`` normalises the labels of a regression too, and predictions
come back in the labels' units.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from hvdspark.data.dataset import DataSet
from hvdspark.data.measure import Measurement
from hvdspark.data.sealed import read_sealed, write_sealed
from hvdspark.data.statistics import Statistics
from hvdspark.errors import ConfigurationError, StorageError
from hvdspark.normalizing import known_normalizers

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from hvdspark.data.affine import Affine, AffineLayer

__all__ = ["ImagePreProcessingScaler", "Normalizer", "NormalizerMinMaxScaler", "NormalizerStandardize"]

_EPSILON = float(np.finfo(np.float64).eps)
_Part = Literal["features", "labels"]


class Normalizer(ABC):
    """Shifts and scales features, and labels where it was asked to. A value: nothing changes it.

    Law: `revert_features` undoes `transform`, and `revert_labels` what `transform` does to labels, up to rounding.
    """

    @abstractmethod
    def fit(
        self,
        data: Any,
        *,
        features_col: str | Sequence[str] = "features",
        label_col: str = "label",
        spark: "SparkSession | None" = None,
    ) -> Self:
        """Return a copy that is fitted to data.

        Parameters
        ----------
        data
            A DataFrame (classic or Connect); an RDD of DataSets or of paths of saved ones; a DataSet, or a list of
            DataSets or paths; a folder of saved ones; an array or tensor of features.
        features_col, label_col
            Of a DataFrame, as in `SparkMultiLayer`. Labels are looked at with ``fit_labels=True`` only.
        spark
            The session whose workers read files; None: this process does.

        Raises
        ------
        DataError
            Where there is no example, shapes differ, or a value that counts is NaN or infinite.
        """

    @property
    @abstractmethod
    def is_fitted(self) -> bool:
        """Whether `fit` has been done, or there is nothing to fit."""

    @property
    @abstractmethod
    def fits_labels(self) -> bool:
        """Whether labels are normalised too."""

    @abstractmethod
    def affine(self, part: _Part) -> "Affine | None":
        """Return what is done to features or labels; None: it is not known yet, or nothing is to be done."""

    @abstractmethod
    def options(self) -> dict[str, Any]:
        """Return the options as JSON has them."""

    @abstractmethod
    def statistics(self) -> dict[_Part, Statistics]:
        """Return what was found by fitting."""

    def layer(self) -> "AffineLayer":
        """Return a torch module that does to features what this does; fitted or not."""
        from hvdspark.data.affine import AffineLayer

        return AffineLayer(self.affine("features"), self.affine("labels"))

    def transform(self, data: Any) -> Any:
        """Return normalised features (of an array or tensor), or a DataSet with normalised features and labels.

        Raises
        ------
        ModelError
            Where this is not fitted, or was to examples of another shape.
        """
        layer = self.layer()
        if not isinstance(data, DataSet):
            return _through(layer, data)
        labels = data.labels
        if self.fits_labels and labels is not None:
            labels = _through(layer.normalize_labels, labels)
        return replace(data, features=_through(layer, data.features), labels=labels)

    def revert_features(self, features: Any) -> Any:
        """Return normalised features, array or tensor, in their units."""
        return _through(self.layer().revert_features, features)

    def revert_labels(self, labels: Any) -> Any:
        """Return normalised labels or predictions, array or tensor, in their units."""
        return _through(self.layer().revert_labels, labels)

    def save(self, path: str | os.PathLike[str]) -> str:
        """Write a safetensors file that knows its own content's checksum; return the SHA-256 of the file."""
        found = self.statistics().items()
        parts = {f"{part}.{name}": array for part, each in found for name, array in each.arrays().items()}
        return write_sealed(path, "Normalizer", parts, {"type": type(self).__name__, "options": self.options()})

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, expected_checksum: str | None = None) -> Self:
        """Read what `save` wrote; called on a subclass, only one of that class.

        Raises
        ------
        StorageError
            Where the file cannot be read, is no such normaliser, or has changed.
        """
        parts, facts = read_sealed(path, "Normalizer", expected_checksum=expected_checksum)
        kind = next((each for each in known_normalizers if each.__name__ == facts.get("type")), None)
        if kind is None or not issubclass(kind, cls):
            raise StorageError(f"{path} holds a {facts.get('type')}, not a {cls.__name__}")
        try:
            found = {part: _of_part(part, parts) for part in ("features", "labels") if f"{part}.count" in parts}
            given = {f"{part[:-1]}_statistics": each for part, each in found.items()}
            made: Self = kind(**facts["options"], **given)
        except (ConfigurationError, KeyError, TypeError) as error:
            raise StorageError(f"{path} holds no {kind.__name__} that makes sense: {error}") from error
        return made

    def __eq__(self, other: object) -> bool:
        """Tell whether both have the same options and were fitted to the same, to the bit."""
        if type(other) is not type(self):
            return NotImplemented
        mine, theirs = ({part: each.facts() for part, each in one.statistics().items()} for one in (self, other))
        return self.options() == other.options() and mine == theirs

    __hash__ = None  # type: ignore[assignment]  # arrays have none


@dataclass(frozen=True, eq=False, kw_only=True)
class _Fitted(Normalizer):
    """What normalisers have in common that are fitted; their docstrings explain the options."""

    fit_labels: bool = False
    feature_axis: int | None = None
    feature_statistics: Statistics | None = None
    label_statistics: Statistics | None = None

    def __post_init__(self) -> None:
        axis = self.feature_axis
        if axis is not None and (not isinstance(axis, int) or isinstance(axis, bool) or axis == 0):
            raise ConfigurationError(f"{type(self).__name__}.feature_axis: 1, 2 ... or -1, -2 ..., not {axis!r}")

    def fit(
        self,
        data: Any,
        *,
        features_col: str | Sequence[str] = "features",
        label_col: str = "label",
        spark: "SparkSession | None" = None,
    ) -> Self:
        """Return a copy that is fitted to data: see `Normalizer.fit`."""
        asked = Measurement(self.feature_axis, with_labels=self.fit_labels)
        found = asked.measure(data, features_col=features_col, label_col=label_col, spark=spark)
        return replace(self, feature_statistics=found.features, label_statistics=found.labels)

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` has been done."""
        return self.feature_statistics is not None

    @property
    def fits_labels(self) -> bool:
        """Whether labels are normalised too."""
        return self.fit_labels

    def affine(self, part: _Part) -> "Affine | None":
        """Return what is done to features or labels."""
        found = self.statistics().get(part)
        return None if found is None else self._affine_of(found)

    def options(self) -> dict[str, Any]:
        """Return the options as JSON has them."""
        names = [field.name for field in fields(self) if not field.name.endswith("_statistics")]
        return {name: getattr(self, name) for name in names}

    def statistics(self) -> dict[_Part, Statistics]:
        """Return what was found by fitting."""
        pairs: dict[_Part, Statistics | None] = {"features": self.feature_statistics, "labels": self.label_statistics}
        return {part: each for part, each in pairs.items() if each is not None}

    @abstractmethod
    def _affine_of(self, found: Statistics) -> "Affine":
        """Return what is done to values that have these statistics."""


@dataclass(frozen=True, eq=False)
class NormalizerStandardize(_Fitted):
    """Gives each feature mean 0 and standard deviation 1; a constant feature becomes 0.

    The deviation is that of the whole, divided by the count. As in scikit-learn's StandardScaler, what varies by less
    than rounding does is constant.

    Parameters
    ----------
    fit_labels
        Normalise labels too: for regression.
    feature_axis
        None: every number of an example is a feature of its own. Else the axis of the features in an array of examples
        (1 for the channels of images `[n, channels, height, width]`, -1 for sequences `[n, steps, features]`), counted
        through all others. Masked steps do not count.
    feature_statistics, label_statistics
        What `fit` found; None: not fitted.
    """

    def _affine_of(self, found: Statistics) -> "Affine":
        from hvdspark.data.affine import Affine

        variance, count = found.variance, found.count
        # The bound of rounding errors of a variance of equal numbers: Chan, Golub and LeVeque 1983.
        constant = variance <= count * _EPSILON * variance + np.square(count * found.mean * _EPSILON)
        deviation = np.where(constant, 1.0, np.sqrt(variance))
        return Affine(found.mean, 1.0 / deviation, np.zeros_like(found.mean))


@dataclass(frozen=True, eq=False)
class NormalizerMinMaxScaler(_Fitted):
    """Brings each feature's least value to `minimum` and its greatest to `maximum`; a constant becomes `minimum`.

    Parameters
    ----------
    minimum, maximum
        The range, of features and labels alike.
    fit_labels
        Normalise labels too: for regression.
    feature_axis
        None: every number of an example is a feature of its own. Else the axis of the features in an array of examples
        (1 for the channels of images `[n, channels, height, width]`, -1 for sequences `[n, steps, features]`), counted
        through all others. Masked steps do not count.
    feature_statistics, label_statistics
        What `fit` found; None: not fitted.
    """

    minimum: float = 0.0
    maximum: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_range(self, self.minimum, self.maximum)

    def _affine_of(self, found: Statistics) -> "Affine":
        from hvdspark.data.affine import Affine

        some = found.count > 0
        low, high = np.where(some, found.low, 0.0), np.where(some, found.high, 0.0)
        width = np.where(high - low < 10 * _EPSILON, 1.0, high - low)  # scikit-learn's bound
        return Affine(low, (self.maximum - self.minimum) / width, np.full_like(low, self.minimum))


@dataclass(frozen=True, eq=False)
class ImagePreProcessingScaler(Normalizer):
    """Brings pixels from ``0 .. 2 ** max_bits - 1`` to ``minimum .. maximum``; nothing is fitted.

    Parameters
    ----------
    minimum, maximum
        The range.
    max_bits
        Bits of a colour: 8 for pixels of 0..255.
    """

    minimum: float = 0.0
    maximum: float = 1.0
    max_bits: int = 8

    def __post_init__(self) -> None:
        _check_range(self, self.minimum, self.maximum)
        if not isinstance(self.max_bits, int) or not 1 <= self.max_bits <= 32:
            raise ConfigurationError(f"ImagePreProcessingScaler.max_bits: 1 to 32, not {self.max_bits!r}")

    def fit(self, *_data: Any, **_options: Any) -> Self:
        """Return this: pixels have a known range."""
        return self

    @property
    def is_fitted(self) -> bool:
        """Always: there is nothing to fit."""
        return True

    @property
    def fits_labels(self) -> bool:
        """Never."""
        return False

    def affine(self, part: _Part) -> "Affine | None":
        """Return what is done to pixels; nothing is done to labels."""
        from hvdspark.data.affine import Affine

        if part == "labels":
            return None
        scale = (self.maximum - self.minimum) / (2**self.max_bits - 1)
        return Affine(np.zeros(()), np.array(scale), np.array(float(self.minimum)))

    def options(self) -> dict[str, Any]:
        """Return the options as JSON has them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def statistics(self) -> dict[_Part, Statistics]:
        """Return nothing: nothing is fitted."""
        return {}


known_normalizers += [NormalizerStandardize, NormalizerMinMaxScaler, ImagePreProcessingScaler]


def _of_part(part: str, parts: Mapping[str, Any]) -> Statistics:
    return Statistics.from_arrays({n.partition(".")[2]: each for n, each in parts.items() if n.startswith(f"{part}.")})


def _check_range(owner: Normalizer, minimum: float, maximum: float) -> None:
    if not (np.isfinite([minimum, maximum]).all() and minimum < maximum):
        raise ConfigurationError(f"{type(owner).__name__}: minimum {minimum} must lie below maximum {maximum}")


def _through(function: Any, values: Any) -> Any:
    import torch

    if not isinstance(values, np.ndarray):
        return function(values)
    with torch.no_grad():
        return function(torch.from_numpy(np.ascontiguousarray(values))).numpy()
