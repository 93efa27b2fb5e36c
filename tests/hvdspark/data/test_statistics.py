import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvdspark.data import statistics
from hvdspark.data.statistics import Statistics
from hvdspark.errors import DataError


def near(found, values, keep=None):
    """Compare with one pass of NumPy over everything."""
    masked = np.ma.masked_array(values.astype(np.float64), mask=None if keep is None else ~keep)
    count = np.broadcast_to(masked.count(axis=0), values.shape[1:])
    assert np.array_equal(found.count, count)
    scale = np.abs(values).max() + 1
    assert np.allclose(found.mean, masked.mean(axis=0).filled(0), rtol=1e-12, atol=1e-13 * scale)
    assert np.allclose(found.variance, masked.var(axis=0).filled(0), rtol=1e-9, atol=1e-13 * scale**2)
    assert np.array_equal(found.low, np.ma.filled(masked.min(axis=0).astype(float), np.inf))
    assert np.array_equal(found.high, np.ma.filled(masked.max(axis=0).astype(float), -np.inf))


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=6),
    offset=st.sampled_from([0.0, 3.0, -1e6]),
    masked=st.booleans(),
    seed=st.integers(0, 1000),
)
@settings(max_examples=80, deadline=None)
def test_pieces_of_any_size_give_what_the_whole_gives(sizes, offset, masked, seed):
    random = np.random.default_rng(seed)
    values = random.normal(offset, 2.0, (sum(sizes), 2, 3))
    keep = random.random(values.shape) < 0.6 if masked else None
    edges = np.cumsum([0, *sizes])
    spans = [slice(a, b) for a, b in itertools.pairwise(edges)]
    found = [Statistics.of(values[span], None if keep is None else keep[span]) for span in spans]
    total = found[0]
    for each in found[1:]:
        total = total.merged(each)
    near(total, values, keep)


def test_blocks_are_merged_too(monkeypatch):
    values = np.random.default_rng(0).normal(size=(1000, 3)).astype(np.float32)
    whole = Statistics.of(values)
    monkeypatch.setattr(statistics, "_BLOCK_NUMBERS", 50)
    near(Statistics.of(values), values)
    near(whole, values)


def test_a_far_mean_costs_no_digits():
    values = 1e9 + np.arange(1000.0).reshape(-1, 1) % 7
    halves = Statistics.of(values[:300]).merged(Statistics.of(values[300:]))
    assert halves.variance == pytest.approx(np.var(np.arange(1000) % 7), rel=1e-9)


@pytest.mark.parametrize("dtype", ["uint8", "int64", "float16", "bool"])
def test_other_dtypes(dtype):
    values = (np.random.default_rng(0).random((100, 2)) * 2).astype(dtype)
    near(Statistics.of(values), values)


def test_features_without_axes_stay_arrays():
    total = Statistics.of(np.arange(4)).merged(Statistics.of(np.arange(4.0, 9)))
    assert all(isinstance(array, np.ndarray) and array.shape == () for array in total.arrays().values())
    assert (total.count, total.mean, total.low, total.high) == (9, 4, 0, 8)
    assert total.variance == np.arange(9).var()


def test_text_and_back_to_the_bit():
    keep = np.array([[True, False], [True, False]])
    found = Statistics.of(np.array([[0.1, np.nan], [1 / 3, 2]]), keep)
    again = Statistics.from_facts(found.facts())
    for name, array in found.arrays().items():
        assert array.tobytes() == again.arrays()[name].tobytes()
        assert array.dtype == again.arrays()[name].dtype


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(DataError, match="NaN or infinity stands in 2 rows, the first is row 1"):
        Statistics.of(np.array([[1.0, 2.0], [np.nan, 1.0], [np.inf, np.nan]]))
    with pytest.raises(DataError, match=r"examples have shapes \[2\] and \[3\]"):
        Statistics.of(np.ones((1, 2))).merged(Statistics.of(np.ones((1, 3))))
