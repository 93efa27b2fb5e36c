"""Spilled rows: what goes in comes out, and nothing is left behind."""

import gc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.row_groups import FIELDS, check_row_groups, make_arrays
from hvdspark.data import filling
from hvdspark.data.fields import Field
from hvdspark.data.problems import Problem
from hvdspark.data.rows import Rows
from hvdspark.data.spill import Spiller, spill, spill_folder

ROWS = tuple(Field(*facts) for facts in FIELDS)


def rows(count, seed=0, flags=None):
    return Rows(count, ROWS, make_arrays(count, seed), flags=flags)


def num_open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


def joined(parts):
    return tuple(np.concatenate(arrays) for arrays in zip(*(part.arrays for part in parts), strict=True))


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 30), min_size=1, max_size=6), st.integers(1, 40))
def test_any_pieces_come_out_as_they_went_in(counts, most_rows):
    parts = [rows(count, seed) for seed, count in enumerate(counts)]
    (groups,) = spill(iter(parts), spill_folder(0), most_rows=most_rows).groups
    assert groups.num_rows == sum(counts)
    if groups.num_rows:
        check_row_groups(groups, ROWS, joined(parts))
    else:
        assert groups.rows_per_group == groups.fields == ()
        assert groups.of(ROWS).fields == ROWS


def test_rows_that_are_held_back_go_apart(tmp_path):
    flags = np.arange(20) % 3 == 0
    train, held_back = spill([rows(20, flags=flags)], str(tmp_path), has_flags=True, most_rows=4).groups
    arrays = make_arrays(20)
    check_row_groups(train, ROWS, tuple(array[~flags] for array in arrays))
    check_row_groups(held_back, ROWS, tuple(array[flags] for array in arrays))


def test_wide_rows_make_smaller_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(filling, "_MAX_GROUP_BYTES", 5 * 36)  # 24 + 1 + 8 + 3 bytes a row
    (groups,) = spill([rows(12)], str(tmp_path)).groups
    assert groups.rows_per_group == (5, 5, 2)
    check_row_groups(groups, ROWS, make_arrays(12))


def test_the_fingerprint_is_that_of_rows_and_order_and_not_of_how_they_came(tmp_path):
    def fingerprint(*parts):
        return spill(parts, str(tmp_path), most_rows=4).groups[0].fingerprint

    whole = make_arrays(9)
    halves = [Rows(len(part[0]), ROWS, part) for part in (tuple(a[:2] for a in whole), tuple(a[2:] for a in whole))]
    assert fingerprint(rows(9)) == fingerprint(*halves)
    turned = Rows(9, ROWS, tuple(np.ascontiguousarray(array[::-1]) for array in whole))
    assert len({fingerprint(), fingerprint(rows(9)), fingerprint(turned), fingerprint(rows(9), rows(1))}) == 4
    assert fingerprint() == spill([], str(tmp_path)).groups[0].of(ROWS).fingerprint


def test_nothing_is_left_behind(tmp_path):
    """Neither a name in the folder, while rows are read as little as afterwards, nor an open file."""
    gc.collect()
    before = num_open_files()
    (groups,) = spill([rows(50)], str(tmp_path)).groups
    assert list(tmp_path.iterdir()) == []
    with groups.open() as reader:
        assert len(reader.group(0)[0]) == 50
    del groups, reader
    bad = Rows(3, problems=(Problem("x", "null", 1, 2),))
    assert spill([rows(50), bad], str(tmp_path)).groups == ()
    with pytest.raises(KeyError):
        spill((rows(1 // one) if one else {}["mine"] for one in (1, 0)), str(tmp_path))
    gc.collect()
    assert list(tmp_path.iterdir()) == []
    assert num_open_files() == before


def test_bad_rows_are_counted_over_all_of_them(tmp_path):
    bad = [Rows(3, problems=(Problem("x", "null", 2, 1),)), Rows(4, problems=(Problem("x", "null", 1, 0),))]
    result = spill([rows(5), *bad], str(tmp_path))
    assert result.problems == (Problem("x", "null", 3, 6),)


def test_a_folder_that_takes_nothing_is_named(tmp_path):
    gone = tmp_path / "gone"
    result = spill([rows(5)], str(gone))
    assert result.groups == ()
    assert str(gone) in result.storage_error
    assert "SPARK_LOCAL_DIRS" in result.storage_error


def test_a_spiller_without_rows_makes_no_file():
    writer = Spiller("/nowhere")
    writer.add(ROWS, make_arrays(0))
    assert writer.finish().num_rows == 0
    writer.close()


def test_ranks_take_turns_in_sparks_own_folders(tmp_path, monkeypatch):
    folders = [str(tmp_path / name) for name in ("a", "b")]
    for folder in folders:
        Path(folder).mkdir()
    monkeypatch.setenv("SPARK_LOCAL_DIRS", ",".join([folders[0], "/gone", folders[1]]))
    assert [spill_folder(rank) for rank in range(3)] == [*folders, folders[0]]
