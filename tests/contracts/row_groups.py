"""What all row groups keep to, whatever they lie in: `check_row_groups` is given rows and what holds them."""

import threading

import numpy as np

FIELDS = (
    ("feature", 0, "x", "float32", (3, 2)),
    ("feature", 1, "more", "uint8", ()),
    ("label", 0, "y", "int64", ()),
    ("features_mask", 0, "m", "bool", (3,)),
)


def make_arrays(count, seed=0):
    """Rows of all dtypes, some of them in arrays."""
    draw = np.random.default_rng(seed)
    return (
        draw.normal(size=(count, 3, 2)).astype(np.float32),
        draw.integers(0, 255, count).astype(np.uint8),
        draw.integers(-9, 9, count),
        draw.random((count, 3)) < 0.5,
    )


def check_row_groups(groups, fields, arrays):
    """The groups hold these rows in this order; what they open can be read again, in any order, by another thread."""
    assert groups.fields == fields
    counts = groups.rows_per_group
    assert sum(counts) == len(arrays[0])
    assert all(count > 0 for count in counts)
    starts = np.concatenate([[0], np.cumsum(counts)])

    def read(order):
        with groups.open() as reader:
            for group in order:
                found = reader.group(group)
                for array, whole in zip(found, arrays, strict=True):
                    expected = whole[starts[group] : starts[group + 1]]
                    assert array.dtype == expected.dtype
                    assert not array.flags.writeable
                    np.testing.assert_array_equal(array, expected)

    read(range(len(counts)))
    failures = []

    def elsewhere():
        try:
            read([*reversed(range(len(counts))), *range(len(counts))])
        except BaseException as error:  # noqa: BLE001  # told to the test
            failures.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert not failures, failures
