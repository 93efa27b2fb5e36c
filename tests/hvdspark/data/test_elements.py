"""Rows out of objects and files: what goes in comes out once, and what is wrong is named."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hvdspark import DataSet, MultiDataSet
from hvdspark.data.elements import element_rows, file_rows
from hvdspark.data.parts import write_parts


def data_set(start, count):
    ids = np.arange(start, start + count)
    return DataSet(np.stack([ids, ids + 0.5], 1), ids)


def problems_of(rows):
    return [(p.column, p.kind, p.count, p.first_row, p.detail) for each in rows for p in each.problems]


def elements_of(kinds, sizes):
    start = 0
    for kind, size in zip(kinds, sizes, strict=True):
        if kind == "point":
            yield from ((float(n), [n, n + 0.5]) for n in range(start, start + size))
        else:
            yield data_set(start, size)
        start += size


@given(sizes=st.lists(st.integers(0, 40), max_size=8), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_each_example_comes_once_in_order(sizes, seed):
    kind = ["examples", "point"][seed % 2]
    rows = list(element_rows(elements_of([kind] * len(sizes), sizes)))
    assert not problems_of(rows)
    labels = np.concatenate([each.arrays[1] for each in rows] or [[]])
    assert labels.tolist() == list(range(sum(sizes)))
    for each in rows:
        np.testing.assert_array_equal(each.arrays[0], np.stack([each.arrays[1], each.arrays[1] + 0.5], 1))
        assert each.arrays[0].dtype == np.float32


@pytest.mark.parametrize(
    ("given_dtype", "features", "labels"),
    [
        ("float64", "float32", "float32"),
        ("float16", "float32", "float32"),
        ("int32", "int64", "int64"),
        ("uint8", "uint8", "int64"),
        ("bool", "bool", "int64"),
        (">f4", "float32", "float32"),
    ],
)
def test_dtypes(given_dtype, features, labels):
    (rows,) = element_rows([DataSet(np.ones((2, 3), given_dtype), np.ones(2, given_dtype))])
    assert [field.dtype for field in rows.fields] == [features, labels]
    assert [array.dtype.name for array in rows.arrays] == [features, labels]


def test_tensors_and_masks_of_several_inputs():
    mask = torch.tensor([[1, 0], [1, 1]])
    data = MultiDataSet([torch.ones(2, 3, dtype=torch.bfloat16), torch.ones(2, 2)], [torch.zeros(2)], [None, mask])
    (rows,) = element_rows([data])
    assert [(f.key, f.dtype, f.shape) for f in rows.fields] == [
        ("feature_0", "float32", (3,)),
        ("feature_1", "float32", (2,)),
        ("label_0", "float32", ()),
        ("features_mask_1", "bool", (2,)),
    ]


@pytest.mark.parametrize(
    ("elements", "expected"),
    [
        ([DataSet(np.ones((2, 1)))], ("labels", "unlabelled", 2, 0, "")),
        ([DataSet(np.array([[1.0], [np.nan]]), np.ones(2))], ("features", "not finite", 1, 1, "")),
        ([DataSet(np.array([[1e300]]), np.ones(1))], ("features", "not finite", 1, 0, "")),
        ([DataSet(np.ones((2, 0)), np.ones(2))], ("features", "empty", 2, 0, "")),
        (
            [DataSet(np.ones((2, 1), complex), np.ones(2))],
            ("features", "dtype", 2, 0, "an array of complex128 was given, an array of real numbers is needed"),
        ),
        ([DataSet(np.ones((1, 2)), np.ones(1), np.array([[1.0, 0.5]]))], ("features_mask", "mask", 1, 0, "")),
        ([(1.0, [1.0, 2.0]), (0.0, [1.0])], ("features", "width", 1, 1, "2 and 1 values")),
        ([(float("nan"), [1.0])], ("labels", "not finite", 1, 0, "")),
        ([{"a": 1}, {}], ("", "foreign", 2, 0, "dict is none of the known")),
        ([None], ("", "foreign", 1, 0, "NoneType is none of the known")),
        ([("a", [1.0])], ("", "foreign", 1, 0, "tuple is none of the known")),
    ],
)
def test_what_cannot_be_trained_on_is_named(elements, expected):
    assert problems_of(element_rows(elements)) == [expected]


def test_classes_of_points_are_whole_numbers():
    (rows,) = element_rows([(1.0, [0.5]), (2.0, [1.0])], points="class")
    assert (rows.arrays[1].dtype, rows.arrays[1].tolist()) == (np.int64, [1, 2])
    points = [(1.0, [0.5]), (1.5, [1.0])]
    assert problems_of(element_rows(points, points="class")) == [("labels", "fraction", 1, 1, "")]
    assert problems_of(element_rows(points, points="value")) == []
    assert problems_of(element_rows([data_set(0, 1)], points="class"))[0][1] == "foreign"


def test_files_of_both_kinds_are_read_by_themselves(tmp_path):
    data_set(0, 3).save(tmp_path / "a")
    MultiDataSet.of(data_set(3, 2)).save(tmp_path / "b")
    rows = list(element_rows([tmp_path / "a", str(tmp_path / "b")]))
    assert [each.place for each in rows] == [str(tmp_path / "a"), str(tmp_path / "b")]
    assert np.concatenate([each.arrays[1] for each in rows]).tolist() == [0, 1, 2, 3, 4]


def test_files_that_cannot_be_read_are_named(tmp_path):
    data_set(0, 3).save(tmp_path / "good")
    (tmp_path / "bad").write_bytes(b"no tensors at all")
    paths = [tmp_path / name for name in ("good", "gone", "bad")]
    kinds = problems_of(file_rows(paths))
    assert [kind for _, kind, *_ in kinds] == ["unreadable"] * 2
    assert str(tmp_path / "gone") in kinds[0][-1]
    assert str(tmp_path / "bad") in kinds[1][-1]

    def loader(path):
        return {"good": data_set(0, 1), "gone": [1]}[path.rpartition("/")[2]]

    found = problems_of(file_rows(paths, loader))
    assert "TypeError: the loader returned a list, not a DataSet" in found[0][-1]
    assert f"{tmp_path / 'bad'}: KeyError: 'bad'" in found[1][-1]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (DataSet(np.ones((1, 3)), np.ones(1, int)), ("features", "width", 1, "2 and 3 values")),
        (DataSet(np.ones((1, 1, 2)), np.ones(1, int)), ("features", "shape", 1, "[2] and [1, 2]")),
        (DataSet(np.ones((1, 2)), np.ones(1)), ("labels", "dtype", 1, "int64 and float32")),
        (
            DataSet(np.ones((1, 2)), np.ones(1, int), np.ones((1, 2))),
            ("", "parts", 1, "some have 'features_mask' and others not"),
        ),
        (
            MultiDataSet([np.ones((1, 2))] * 2, [np.ones(1, int)]),
            ("", "parts", 1, "some have 'features_1' and others not"),
        ),
    ],
)
def test_objects_that_do_not_fit_those_before_are_named_with_their_row(tmp_path, other, expected):
    (result,) = write_parts(element_rows([data_set(0, 5), other, data_set(5, 2)]), [str(tmp_path)], 0, 10)
    assert [(p.column, p.kind, p.count, p.detail) for p in result.problems] == [expected]
    assert [p.first_row for p in result.problems] == [5]
    assert list(tmp_path.iterdir()) == []


def test_a_row_is_counted_inside_its_file(tmp_path):
    data_set(0, 5).save(tmp_path / "a.safetensors")
    DataSet(np.array([[1.0, 1.0], [np.inf, 0.0]]), np.ones(2, int)).save(tmp_path / "b.safetensors")
    (result,) = write_parts(file_rows(sorted(tmp_path.iterdir())), [str(tmp_path)], 0, 10)
    (problem,) = result.problems
    assert (problem.first_row, problem.place) == (1, str(tmp_path / "b.safetensors"))
