"""A normaliser in front of a module: what a network asks of it, and how it is kept with the network.

The normalisers themselves are in `hvdspark.data`, above the network, for they are fitted to data.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Protocol, Self, runtime_checkable

from hvdspark import storage
from hvdspark.errors import ConfigurationError, ModelError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Normalizing", "in_front", "known_normalizers", "read_normalizer", "read_normalizer_of", "write_normalizer"]

_FILE = "normalizer.safetensors"


@runtime_checkable
class Normalizing(Protocol):
    """What a network asks of a normaliser; `hvdspark.data.Normalizer` is one."""

    @property
    def is_fitted(self) -> bool:
        """Whether it knows what to do."""

    @property
    def fits_labels(self) -> bool:
        """Whether it normalises labels too."""

    def layer(self) -> nn.Module:
        """Return a module that normalises features; with `normalize_labels` and `revert_labels` of tensors."""

    def save(self, path: str) -> str:
        """Write it into a file and return the file's SHA-256."""

    @classmethod
    def load(cls, path: str, *, expected_checksum: str | None = None) -> Self:
        """Read what `save` wrote."""


known_normalizers: list[type[Normalizing]] = []
"""The classes of which a saved normaliser can be; `hvdspark.data` adds its own."""


def in_front(normalizer: Normalizing | None, module: nn.Module, *, is_classifier: bool) -> nn.Module:
    """Return the module behind the normaliser's layer: a Sequential of ``normalizer`` and ``module``.

    Raises
    ------
    ConfigurationError
        If it is no normaliser, or normalises labels that are class indices.
    """
    if normalizer is None:
        return module
    if not isinstance(normalizer, Normalizing) or isinstance(normalizer, type):
        raise ConfigurationError(f"Network.normalizer: a Normalizer is needed, this is a {type(normalizer).__name__}")
    if normalizer.fits_labels and is_classifier:
        raise ConfigurationError(
            "Network.normalizer: fit_labels=True cannot act where the loss wants class indices: leave it out"
        )
    from torch import nn  # who only stages rows does not wait for torch

    return nn.Sequential(OrderedDict(normalizer=normalizer.layer(), module=module))


def write_normalizer(normalizer: Normalizing | None, directory: str) -> dict[str, Any] | None:
    """Write a normaliser into a network's directory; return what `read_normalizer` wants to know of it."""
    if normalizer is None:
        return None
    checksum = normalizer.save(storage.join(directory, _FILE))
    return {"file": _FILE, "checksum": checksum, "type": type(normalizer).__name__}


def read_normalizer(own: Normalizing | None, directory: str, facts: dict[str, Any] | None) -> Normalizing | None:
    """Read a normaliser of the same class as the network's own.

    Raises
    ------
    ModelError
        If the network has none and the directory does, or the other way round, or they are of two classes.
    """
    here, there = type(own).__name__ if own else "none", facts["type"] if facts else "none"
    if here != there:
        raise ModelError(
            f"{directory}: the normalizer saved there is {there}, that of this network is {here}: give "
            "Network(normalizer=...) the same kind (it need not be fitted)"
        )
    if own is None or facts is None:
        return None
    return type(own).load(storage.join(directory, _FILE), expected_checksum=facts["checksum"])


def read_normalizer_of(directory: str, facts: dict[str, Any] | None) -> Normalizing | None:
    """Read a normaliser of the class that was saved; None where there was none.

    Raises
    ------
    ModelError
        If its class is not among `known_normalizers`.
    """
    if facts is None:
        return None
    kinds = {kind.__name__: kind for kind in known_normalizers}
    if facts["type"] not in kinds:
        raise ModelError(
            f"{directory}: the normalizer saved there is {facts['type']}; known are "
            f"{', '.join(sorted(kinds)) or 'none'}: import hvdspark.data, or add a class of your own to "
            "hvdspark.normalizing.known_normalizers"
        )
    return kinds[facts["type"]].load(storage.join(directory, _FILE), expected_checksum=facts["checksum"])
