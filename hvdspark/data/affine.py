"""The layer that a normaliser puts in front of a module: each feature shifted and scaled, on the module's device."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import nn

from hvdspark.errors import ModelError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Affine", "AffineLayer"]


class Affine(NamedTuple):
    """``(value - shift) * scale + offset``, each `[...] float64` of a shape that examples are broadcast with."""

    shift: NDArray[np.float64]
    scale: NDArray[np.float64]
    offset: NDArray[np.float64]


class AffineLayer(nn.Module):
    """Normalises features; normalises labels and brings outputs back to their units, where labels were fitted.

    Its numbers are buffers that are in no ``state_dict``: a normaliser has a file of its own. They are float64, and so
    is what is computed; the result is float32, or float64 where the values are.

    Parameters
    ----------
    features, labels
        What is done to each; None: nothing is known yet of features, nothing is to be done to labels.
    """

    def __init__(self, features: Affine | None, labels: Affine | None) -> None:
        super().__init__()
        for name, part in (("features", features), ("labels", labels)):
            for each in Affine._fields:
                value = None if part is None else torch.tensor(getattr(part, each), dtype=torch.float64)
                self.register_buffer(f"{name}_{each}", value, persistent=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Normalise features `[b, ...]`.

        Raises
        ------
        ModelError
            If they are not of the shape that was fitted, or nothing was fitted.
        """
        return self._normalized("features", features)

    def revert_features(self, features: torch.Tensor) -> torch.Tensor:
        """Bring normalised features back to their units."""
        return self._reverted("features", features)

    def normalize_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Normalise labels `[b, ...]`."""
        return self._normalized("labels", labels)

    def revert_labels(self, output: torch.Tensor) -> torch.Tensor:
        """Bring normalised labels, or a module's output, back to the labels' units."""
        return self._reverted("labels", output)

    def _normalized(self, name: str, values: torch.Tensor) -> torch.Tensor:
        shift, scale, offset = self._numbers(name, values)
        return _rounded((values.double() - shift) * scale + offset, values)

    def _reverted(self, name: str, values: torch.Tensor) -> torch.Tensor:
        shift, scale, offset = self._numbers(name, values)
        return _rounded((values.double() - offset) / scale + shift, values)

    def _numbers(self, name: str, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        numbers: list[torch.Tensor | None] = [getattr(self, f"{name}_{each}") for each in Affine._fields]
        shift = numbers[0]
        if shift is None:
            raise ModelError(f"the normalizer was not fitted to {name}: use what its fit(...) returns")
        wanted, given = shift.shape, values.shape[1:]
        fits = len(wanted) == len(given) and all(want in (1, have) for want, have in zip(wanted, given, strict=True))
        if shift.numel() != 1 and not fits:
            raise ModelError(f"the normalizer was fitted to {name} of shape {list(wanted)}, these are {list(given)}")
        # One number goes with any shape: labels [b] are compared with outputs [b, 1].
        return tuple(each if fits else each.reshape(()) for each in numbers if each is not None)


def _rounded(result: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
    return result if given.dtype == torch.float64 else result.float()
