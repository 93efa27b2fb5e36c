"""Count, mean, spread and extremes of each feature, in one pass over data that lie in many places.

Each block is measured by the corrected two-pass algorithm, and partial results are merged pairwise, in float64: Chan,
Golub and LeVeque 1983, "Algorithms for computing the sample variance: analysis and recommendations".
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from hvdspark.errors import DataError

__all__ = ["Statistics"]

_BLOCK_NUMBERS = 1 << 20  # 8 MiB of float64: what is copied at a time


@dataclass(frozen=True, eq=False)
class Statistics:
    """What is known of each feature; all arrays have the same shape, and are not to be written to.

    Law: ``of(a).merged(of(b))`` is ``of`` of both, up to rounding, whatever their sizes.

    Parameters
    ----------
    count
        `[...] int64`: values of each feature.
    mean
        `[...] float64`; 0 where there is none.
    squares
        `[...] float64`: sum of the squared differences from the mean.
    low, high
        `[...] float64`: the extremes; infinities where there is no value.
    """

    count: NDArray[np.int64]
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]

    def __post_init__(self) -> None:
        for field in fields(self):  # NumPy makes plain numbers of arrays without axes
            object.__setattr__(self, field.name, np.asarray(getattr(self, field.name)))

    @classmethod
    def of(cls, values: NDArray[Any], keep: NDArray[np.bool_] | None = None) -> Self:
        """Measure `[m, ...]` values of features `[...]`.

        Parameters
        ----------
        values
            Any numbers; at least one row.
        keep
            Of the shape of `values`; what is False does not count. None: everything counts.

        Raises
        ------
        DataError
            Where a value that counts is NaN or infinite.
        """
        rows = max(1, _BLOCK_NUMBERS // max(1, values[0].size))
        blocks = (slice(start, start + rows) for start in range(0, len(values), rows))
        total: Self | None = None
        for block in blocks:
            found = cls._of_block(values[block].astype(np.float64), None if keep is None else keep[block], block.start)
            total = found if total is None else total.merged(found)
        assert total is not None
        return total

    @classmethod
    def _of_block(cls, values: NDArray[np.float64], keep: NDArray[np.bool_] | None, start: int) -> Self:
        counts = np.ones(values.shape, bool) if keep is None else keep
        wrong = counts & ~np.isfinite(values)
        if wrong.any():
            rows = wrong.reshape(len(wrong), -1).any(axis=1)
            raise DataError(f"NaN or infinity stands in {rows.sum()} rows, the first is row {start + rows.argmax()}")
        count = counts.sum(axis=0, dtype=np.int64)
        some = np.maximum(count, 1)
        mean = np.where(counts, values, 0.0).sum(axis=0) / some
        apart = np.where(counts, values - mean, 0.0)
        squares = np.square(apart).sum(axis=0) - np.square(apart.sum(axis=0)) / some
        low = np.where(counts, values, np.inf).min(axis=0)
        high = np.where(counts, values, -np.inf).max(axis=0)
        return cls(count, mean, np.maximum(squares, 0.0), low, high)

    def merged(self, other: Self) -> Self:
        """Return the statistics of both.

        Raises
        ------
        DataError
            Where they are of features of another shape.
        """
        if self.count.shape != other.count.shape:
            raise DataError(f"examples have shapes {list(self.count.shape)} and {list(other.count.shape)}")
        count = self.count + other.count
        some = np.maximum(count, 1)
        apart = other.mean - self.mean
        return type(self)(
            count=count,
            mean=np.asarray(self.mean + apart * (other.count / some)),
            squares=np.asarray(self.squares + other.squares + np.square(apart) * (self.count * (other.count / some))),
            low=np.minimum(self.low, other.low),
            high=np.maximum(self.high, other.high),
        )

    @property
    def variance(self) -> NDArray[np.float64]:
        """`[...] float64`: of the whole (divided by the count, not by one less); 0 where there is no value."""
        return np.asarray(self.squares / np.maximum(self.count, 1))

    def reshaped(self, shape: tuple[int, ...]) -> Self:
        """Return the same numbers in another shape."""
        return type(self)(**{name: array.reshape(shape) for name, array in self.arrays().items()})

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name, as `from_arrays` takes them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> Self:
        """Make one of what `arrays` returned."""
        return cls(**{field.name: arrays[field.name] for field in fields(cls)})

    def facts(self) -> dict[str, Any]:
        """Return all numbers as JSON has them, to the bit; `from_facts` takes them back."""
        flat: dict[str, Any] = {name: array.reshape(-1).tolist() for name, array in self.arrays().items()}
        return {**flat, "shape": list(self.count.shape)}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """Make one of what `facts` returned."""
        dtypes = {"count": np.int64}
        return cls.from_arrays(
            {
                field.name: np.array(facts[field.name], dtypes.get(field.name, np.float64)).reshape(facts["shape"])
                for field in fields(cls)
            }
        )
