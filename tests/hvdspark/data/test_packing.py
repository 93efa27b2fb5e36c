"""Rows through Spark as bytes: what goes in comes out."""

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.row_groups import FIELDS, make_arrays
from hvdspark.data import packing
from hvdspark.data.fields import Field
from hvdspark.data.packing import COLUMN, pack, unpack
from hvdspark.data.problems import Problem
from hvdspark.data.rows import Rows

ROWS = tuple(Field(*facts) for facts in FIELDS)
BAD = Rows(4, problems=(Problem("x", "shape", 2, 1, "[3] and [2]", "a file"),), place="a file")


def through(source):
    messages = list(pack(source))
    batches = [pa.RecordBatch.from_pydict({COLUMN: pa.array([each], pa.binary())}) for each in messages]
    return messages, list(unpack(batches))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=5))
def test_rows_and_problems_arrive_in_order(counts):
    source = [Rows(count, ROWS, make_arrays(count, count), place=f"file {count}") for count in counts]
    _, found = through([*source, BAD])
    assert found[-1] == BAD
    for one, other in zip(source, found[:-1], strict=True):
        assert (one.num_rows, one.fields, one.place, one.problems) == (
            other.num_rows,
            other.fields,
            other.place,
            other.problems,
        )
        for array, expected in zip(other.arrays, one.arrays, strict=True):
            assert array.dtype == expected.dtype
            np.testing.assert_array_equal(array, expected)


def test_many_bytes_go_in_several_messages(monkeypatch):
    monkeypatch.setattr(packing, "_MOST_BYTES", 36 * 10)
    whole = make_arrays(25)
    messages, found = through([Rows(25, ROWS, whole)])
    assert [rows.num_rows for rows in found] == [10, 10, 5]
    assert len(messages) == 3
    for number, array in enumerate(whole):
        np.testing.assert_array_equal(np.concatenate([rows.arrays[number] for rows in found]), array)
