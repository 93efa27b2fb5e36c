"""The laws of a measure, one function each, for any `hvdspark.evaluation.Measure`.

`rows(rng, n)` returns a batch of n rows: (output, labels, mask). Results are compared, not states: an exact ROC keeps
its scores in the order of merging.
"""

import itertools

import numpy as np

from hvdspark.evaluation import collect, combine, merge_all, merge_parts


def assert_same(one, other, where=""):
    """Equal integers exactly, floats to 1e-12."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, (tuple, list)):
        assert len(one) == len(other)
        for i, pair in enumerate(zip(one, other, strict=True)):
            assert_same(*pair, f"{where}[{i}]")
    elif hasattr(one, "__dataclass_fields__"):
        assert type(one) is type(other)
        for name in one.__dataclass_fields__:
            assert_same(getattr(one, name), getattr(other, name), f"{where}.{name}")
    elif isinstance(one, np.ndarray) and one.dtype.kind in "iub":
        np.testing.assert_array_equal(one, other, where)
    elif isinstance(one, (np.ndarray, float)):
        np.testing.assert_allclose(one, other, rtol=1e-12, atol=1e-12, err_msg=where)
    else:
        assert one == other, where


def states_of(measure, rows, sizes, seed):
    rng = np.random.default_rng(seed)
    return [measure.observe(*rows(rng, size)) for size in sizes]


def merging_is_associative(measure, rows, seed):
    a, b, c = states_of(measure, rows, (5, 3, 7), seed)
    left = measure.merge(measure.merge(a, b), c)
    right = measure.merge(a, measure.merge(b, c))
    assert_same(measure.compute(left), measure.compute(right))


def merging_is_commutative(measure, rows, seed):
    a, b = states_of(measure, rows, (4, 9), seed)
    assert_same(measure.compute(measure.merge(a, b)), measure.compute(measure.merge(b, a)))


def nothing_changes_nothing(measure, rows, seed):
    (a,) = states_of(measure, rows, (6,), seed)
    for merged in (measure.merge({}, a), measure.merge(a, {}), merge_all(measure, [{}, a, {}])):
        assert merged.keys() == a.keys()
        for name in a:
            np.testing.assert_array_equal(merged[name], a[name])
    assert measure.merge({}, {}) == {}


def merging_changes_no_state(measure, rows, seed):
    a, b = states_of(measure, rows, (6, 2), seed)
    before = {name: array.copy() for name, array in a.items()}
    measure.merge(a, b)
    measure.compute(a)
    for name in a:
        np.testing.assert_array_equal(before[name], a[name])


def parts_equal_one_pass(measure, rows, seed, cuts):
    """However rows are cut into partitions (empty ones, too) and however their bytes are merged."""
    output, labels, mask = rows(np.random.default_rng(seed), 40)
    bounds = [0, *sorted(cuts), 40]
    whole = combine([measure], [collect([measure], [(output, labels, mask)])])[0]
    parts = [
        collect([measure], [(output[a:b], labels[a:b], None if mask is None else mask[a:b])] if b > a else [])
        for a, b in itertools.pairwise(bounds)
    ]
    assert_same(combine([measure], parts)[0], whole)
    storeys = [merge_parts([measure], parts[:2]), merge_parts([measure], parts[2:])]
    assert_same(combine([measure], reversed(storeys))[0], whole)
