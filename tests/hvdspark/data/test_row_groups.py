"""Row groups, staged and spilled: the same laws."""

import numpy as np
import pytest

from contracts.row_groups import FIELDS, check_row_groups, make_arrays
from hvdspark.data.fields import Field
from hvdspark.data.manifest import Manifest, StagedFile
from hvdspark.data.parts import write_parts
from hvdspark.data.row_groups import StagedRowGroups
from hvdspark.data.rows import Rows
from hvdspark.data.spill import spill

ROWS = tuple(Field(*facts) for facts in FIELDS)


def cut(arrays, cuts):
    """The rows in pieces, as a source yields them."""
    for parts in zip(*(np.split(array, cuts) for array in arrays), strict=True):
        yield Rows(len(parts[0]), ROWS, tuple(parts))


def staged(source, folder, most_rows):
    files = [
        StagedFile(part.file, part.rows_per_group, part.num_bytes, part.checksum)
        for part in write_parts(source, [str(folder)], 0, most_rows)
    ]
    return StagedRowGroups(folder, Manifest(ROWS, tuple(files)))


def spilled(source, folder, most_rows):
    return spill(source, str(folder), most_rows=most_rows).groups[0]


@pytest.mark.parametrize("make", [staged, spilled])
@pytest.mark.parametrize("most_rows", [1, 4, 7, 100])
def test_the_rows_that_were_given_are_those_that_are_read(make, most_rows, tmp_path):
    arrays = make_arrays(40)
    groups = make(cut(arrays, [5, 5, 6, 29]), tmp_path, most_rows)
    assert set(groups.rows_per_group[:-1]) <= {most_rows}
    check_row_groups(groups, ROWS, arrays)
