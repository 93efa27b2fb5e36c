"""A regression on real measurements: how high a place lies, from the heights of 24 places around it.

The elevation model of Jacksboro, Tennessee (344 x 403 cells, about 90 m apart) comes with matplotlib. What scikit-learn
brings for regression has 442 rows at most: too few to tell one arm from another.
"""

import hashlib
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

_DISTANCES = (3, 6, 12)  # cells
_DIRECTIONS = [(down, right) for down in (-1, 0, 1) for right in (-1, 0, 1) if down or right]


class Table(NamedTuple):
    """Columns (``[n, 24] float32``) and targets (``[n, 1] float32``): rows to train on, and rows held out; sha256."""

    columns: torch.Tensor
    targets: torch.Tensor
    held_out_columns: torch.Tensor
    held_out_targets: torch.Tensor
    digest: str


def read_table() -> Table:
    """Read the map; the southernmost fifth is held out, and no row trained on sees a height of it.

    Both are in units of the standard deviation of what is trained on.
    """
    from matplotlib import cbook

    heights = cbook.get_sample_data("jacksboro_fault_dem.npz")["elevation"].astype(np.float32)
    border = heights.shape[0] * 4 // 5
    train, held_out = _rows(heights[:border]), _rows(heights[border:])
    for array, other in zip(train, held_out, strict=True):
        scale = array.std()
        np.divide(array, scale, out=array)
        np.divide(other, scale, out=other)
    digest = hashlib.sha256(b"".join(array.tobytes() for array in (*train, *held_out))).hexdigest()
    return Table(*(torch.from_numpy(array) for array in (*train, *held_out)), digest)


def _rows(heights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Make a row a cell that has all neighbours: their heights and its own, less the mean of the neighbours."""
    rim, (height, width) = max(_DISTANCES), heights.shape
    offsets = [(far * down, far * right) for far in _DISTANCES for down, right in _DIRECTIONS]
    around = [
        heights[rim + down : height - rim + down, rim + right : width - rim + right].ravel() for down, right in offsets
    ]
    columns = np.stack(around, axis=1)
    mean = columns.mean(axis=1, keepdims=True)
    own = heights[rim : height - rim, rim : width - rim].reshape(-1, 1)
    return columns - mean, own - mean


def network(hidden: int) -> nn.Module:
    """Make 24-`hidden`-`hidden`-1: 72,449 parameters with 256."""
    hid = nn.Linear(24, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU()
    return nn.Sequential(*hid, nn.Linear(hidden, 1))
