"""The magnitude that a given share of an array reaches: exact where that is cheap, from a fixed sample elsewhere."""

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["magnitude_quantile"]

_SAMPLE = 1 << 20  # elements; at a density of 1e-3 some 1,000 of them decide, which puts the share within 3 %
_DECIDING = 256  # the least number of sampled elements above the quantile, for smaller densities
_CHUNK = 1 << 16


def magnitude_quantile(take: Callable[[Any], NDArray[np.float32]], n: int, density: float) -> float:
    """Return the largest magnitude that at least ``density * n`` elements reach.

    The same elements are sampled in every process and every run, so that equal arrays give equal quantiles.

    Parameters
    ----------
    take
        Gives the elements that a slice or an index array names.
    n
        Number of elements.
    density
        The share, in (0, 1].

    Returns
    -------
    float
        In units of the array. Where fewer elements than asked for differ from zero: the median of those that do, since
        the smallest of them can be any speck. Zero if all are zero.
    """
    size = max(_SAMPLE, math.ceil(_DECIDING / density))
    # Drawn, not strided: a stride can run along a column of one weight matrix and see nothing else.
    where = slice(0, n) if n <= size else np.random.default_rng(n).integers(0, n, size)
    sample = np.abs(take(where))
    wanted = max(1, math.ceil(density * sample.size))
    quantile = float(np.partition(sample, sample.size - wanted)[sample.size - wanted])
    if quantile > 0:
        return quantile
    filled = sample[sample > 0]
    if not filled.size and n > size:
        filled = _nonzero(take, n, size)
    return float(np.partition(filled, filled.size // 2)[filled.size // 2]) if filled.size else 0.0


def _nonzero(take: Callable[[Any], NDArray[np.float32]], n: int, limit: int) -> NDArray[np.float32]:
    """Return the magnitudes of the first `limit` elements that are not zero: what a sample missed."""

    def chunks() -> Iterator[NDArray[np.float32]]:
        found = 0
        for begin in range(0, n, _CHUNK):
            chunk = np.abs(take(slice(begin, begin + _CHUNK)))
            chunk = chunk[chunk > 0]
            found += chunk.size
            yield chunk
            if found >= limit:
                return

    return np.concatenate(list(chunks()))
