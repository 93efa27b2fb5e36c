import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvdspark.data.columns import ColumnField, ColumnPlan, ColumnReader
from hvdspark.data.problems import Problem
from hvdspark.data.values import read_binary, read_lists, read_scalars
from hvdspark.errors import DataError

SCALARS = ColumnField("feature", 0, ("a", "b"), "scalars", "float32")
SOMETIMES_BAD = st.one_of(
    st.floats(-(2.0**100), 2.0**100, width=32), st.sampled_from([None, np.nan, np.inf, -np.inf, 1e300])
)


def is_bad(value):
    return value is None or not np.isfinite(value) or abs(value) > float(np.finfo(np.float32).max)


@given(values=st.lists(SOMETIMES_BAD, max_size=20), offset=st.integers(0, 3))
@settings(max_examples=80, deadline=None)
def test_scalars_are_read_or_their_problem_is_counted(values, offset):
    column = pa.array([7.0] * offset + values, pa.float64()).slice(offset)
    found, problem = read_scalars(column, "x", np.float32)
    nulls = [i for i, value in enumerate(values) if value is None]
    bad = nulls or [i for i, value in enumerate(values) if is_bad(value)]
    if bad:
        assert found is None
        assert problem == Problem("x", "null" if nulls else "not finite", len(bad), bad[0])
    else:
        np.testing.assert_array_equal(found, np.array(values, np.float32), strict=True)


ROWS = st.integers(1, 3).flatmap(
    lambda w: st.lists(st.one_of(st.lists(SOMETIMES_BAD, min_size=w, max_size=w), st.none()), max_size=8)
)


@given(rows=ROWS, offset=st.integers(0, 2), kind=st.sampled_from([pa.list_, pa.large_list]))
@settings(max_examples=150, deadline=None)
def test_lists_are_read_or_their_problem_is_counted(rows, offset, kind):
    column = pa.array([[9.0]] * offset + rows, kind(pa.float64())).slice(offset)
    found, problem = read_lists(column, "x")
    no_list = [i for i, row in enumerate(rows) if row is None]
    nulls = no_list or [i for i, row in enumerate(rows) if any(value is None for value in row)]
    bad = nulls or [i for i, row in enumerate(rows) if any(map(is_bad, row))]
    if bad:
        assert found is None
        assert problem == Problem("x", "null" if nulls else "not finite", len(bad), bad[0])
    elif rows:
        np.testing.assert_array_equal(found, np.array(rows, np.float32), strict=True)


def test_unequal_and_empty_lists():
    column = pa.array([[1.0, 2.0], [1.0], [3.0, 4.0], []])
    assert read_lists(column, "x") == (None, Problem("x", "width", 2, 1, "2 and 1 values"))
    assert read_lists(column, "x", (1,)) == (None, Problem("x", "width", 3, 0, "1 and 2 values"))
    assert read_lists(pa.array([[], []], pa.list_(pa.float32())), "x") == (None, Problem("x", "empty", 2, 0))


@given(
    shape=st.lists(st.integers(1, 3), min_size=1, max_size=3),
    rows=st.integers(1, 5),
    known=st.booleans(),
    dtype=st.sampled_from([np.float32, np.int64]),
    bad=st.sampled_from([None, "null", "width"]),
    place=st.integers(0, 100),
)
@settings(max_examples=150, deadline=None)
def test_arrays_in_arrays_are_read_or_their_problem_is_counted(shape, rows, known, dtype, bad, place):
    expected = np.arange(rows * int(np.prod(shape))).reshape(rows, *shape)
    listed, row = expected.tolist(), place % rows
    inner = listed[row]
    for index in range(len(shape) - 1):
        inner = inner[place % shape[index]]
    if bad == "null":
        inner[place % shape[-1]] = None
    elif bad == "width":
        inner.append(1)
    column = pa.array(listed)
    given_shape = tuple(shape) if known else None
    found, problem = read_lists(column, "x", given_shape, dtype=dtype, depth=len(shape))
    if bad is None:
        np.testing.assert_array_equal(found, expected.astype(dtype), strict=True)
    elif bad == "null":
        assert problem == Problem("x", "null", 1, row)
    elif known or rows * int(np.prod(shape[:-1])) > 1:
        assert (found, problem.kind) == (None, "width")
        first = not known and row == 0 and inner is _first_of(listed, len(shape))
        assert first or (problem.count, problem.first_row) == (1, row)


def test_a_null_among_arrays_in_arrays_is_one_bad_row():
    column = pa.array([[[1, 2], [3, 4]], [[5, 6], None], [[7, 8], [9, 10]]])
    assert read_lists(column, "x", depth=2) == (None, Problem("x", "null", 1, 1))


def _first_of(listed, depth):
    for _ in range(depth):
        listed = listed[0]
    return listed


def test_binary_values_are_what_the_users_function_makes_of_them():
    column = pa.array([bytes([n, n + 1]) for n in range(3)], pa.binary())
    found, problem = read_binary(column, "x", lambda data: np.frombuffer(data, np.uint8).reshape(1, 2))
    assert problem is None
    np.testing.assert_array_equal(found, np.array([[[0, 1]], [[1, 2]], [[2, 3]]], np.uint8), strict=True)
    found, _ = read_binary(column, "x", lambda data: [data[0] / 2])
    np.testing.assert_array_equal(found, np.array([[0.0], [0.5], [1.0]], np.float32), strict=True)


@pytest.mark.parametrize(
    ("decode", "shape", "kind", "count", "first", "detail"),
    [
        (lambda data: [1 / data[0]], None, "decode", 1, 0, "ZeroDivisionError: division by zero"),
        (lambda data: "text", None, "decode", 3, 0, "TypeError: an array of <U4 was given"),
        (lambda data: [1.0] * (1 + data[0] // 2), None, "width", 1, 2, "1 and 2 values"),
        (lambda data: [[1.0]], (1,), "shape", 3, 0, "[1] and [1, 1]"),
        (lambda data: [], None, "empty", 3, 0, ""),
        (lambda data: np.ones(1, bool if data[0] else int), None, "dtype", 2, 1, "int64 and bool"),
        (lambda data: [np.inf] if data[0] == 1 else [0.0], None, "not finite", 1, 1, ""),
    ],
)
def test_what_a_decode_function_may_do_wrong(decode, shape, kind, count, first, detail):
    column = pa.array([bytes([n]) for n in range(3)], pa.binary())
    found, problem = read_binary(column, "x", decode, shape)
    assert found is None
    assert (problem.column, problem.kind, problem.count, problem.first_row) == ("x", kind, count, first)
    assert problem.detail.startswith(detail)
    assert read_binary(pa.array([b"", None], pa.binary()), "x", decode)[1] == Problem("x", "null", 1, 1)


@pytest.mark.parametrize(
    ("field", "values", "expected"),
    [
        (
            ColumnField("labels_mask", 0, ("m",), "array", "float32"),
            [[1.0, 0.0], [1.0, 1.0]],
            [[True, False], [True] * 2],
        ),
        (ColumnField("labels_mask", 0, ("m",), "scalar", "float32"), [1.0, 0.0], [True, False]),
        (ColumnField("labels_mask", 0, ("m",), "array", "float32"), [[1.0], [0.5]], Problem("m", "mask", 1, 1)),
        (ColumnField("weight", 0, ("w",), "scalar", "float32"), [0.0, 2.5], [0.0, 2.5]),
        (ColumnField("weight", 0, ("w",), "scalar", "float32"), [0.0, -1.0], Problem("w", "negative", 1, 1)),
        (ColumnField("feature", 0, ("x",), "array", "int64", shape=(2, 1)), [[1, 2], [3, 4]], [[[1], [2]], [[3], [4]]]),
        (
            ColumnField("feature", 0, ("x",), "array", "int64", shape=(2, 1)),
            [[1, 2], [3]],
            Problem("x", "width", 1, 1, "2 and 1 values"),
        ),
    ],
)
def test_fields_read_what_they_stand_for(field, values, expected):
    plan = ColumnPlan((field,))
    rows = ColumnReader(plan).read(pa.RecordBatch.from_pydict({field.aliases[0]: values}))
    if isinstance(expected, Problem):
        assert rows.problems == (expected,)
    else:
        assert rows.checked().arrays[0].tolist() == expected
        assert rows.fields[0].dtype == rows.arrays[0].dtype.name


def test_infinities_that_cancel_are_found():
    column = pa.array([[1.0, 1.0], [np.inf, -np.inf]])
    assert read_lists(column, "x") == (None, Problem("x", "not finite", 1, 1))


def test_large_integers_keep_every_digit():
    values, _ = read_scalars(pa.array([2**62 + 1, -1]), "y", np.int64)
    assert values.tolist() == [2**62 + 1, -1]
    values, _ = read_scalars(pa.array([True, False]), "y", np.int64)
    assert values.tolist() == [1, 0]


def test_convert_names_every_bad_column_at_once():
    plan = ColumnPlan((SCALARS, ColumnField("label", 0, ("y",), "scalar", "int64")))
    batch = pa.RecordBatch.from_pydict(
        {
            "hvdspark_feature_0_0": pa.array([1.0, None]),
            "hvdspark_feature_0_1": pa.array([np.nan, 2.0]),
            "hvdspark_label_0": pa.array([1, None]),
        }
    )
    with pytest.raises(DataError) as caught:
        ColumnReader(plan).read(batch).checked()
    for text in ("'a' has nulls in 1 row (the first is row 1 of this batch)", "'b' has NaN", "'y' has nulls"):
        assert text in str(caught.value)


def test_convert_stacks_scalars_in_order():
    plan = ColumnPlan((SCALARS, ColumnField("label", 0, ("y",), "scalar", "float32")))
    names = ["hvdspark_feature_0_0", "hvdspark_feature_0_1", "hvdspark_label_0"]
    batch = pa.RecordBatch.from_arrays([pa.array([1, 2]), pa.array([True, False]), pa.array([0.5, 1.5])], names=names)
    features, labels = ColumnReader(plan).read(batch).checked().arrays
    np.testing.assert_array_equal(features, np.array([[1, 1], [2, 0]], np.float32), strict=True)
    np.testing.assert_array_equal(labels, np.array([0.5, 1.5], np.float32), strict=True)


def test_convert_holds_the_width_that_is_known():
    reader = ColumnReader(ColumnPlan((ColumnField("feature", 0, ("x",), "array", "float32"),)))
    two, three = (
        pa.RecordBatch.from_pydict({"hvdspark_feature_0": pa.array([row])}) for row in ([1.0, 2.0], [0.0] * 3)
    )
    assert [array.shape for array in reader.read(two).checked().arrays] == [(1, 2)]
    with pytest.raises(DataError, match=r"'x' has arrays of unequal width \(2 and 3 values\)"):
        reader.read(three).checked()
