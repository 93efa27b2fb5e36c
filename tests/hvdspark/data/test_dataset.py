import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hvdspark import storage
from hvdspark.data.dataset import DataSet
from hvdspark.errors import DataError, StorageError, UnsupportedError

PARTS = ("features", "labels", "features_mask", "labels_mask")


def same(one, other):
    for name in PARTS:
        a, b = getattr(one, name), getattr(other, name)
        assert type(a) is type(b)
        if a is not None:
            assert a.dtype == b.dtype
            assert a.shape == b.shape
            assert a.tolist() == b.tolist()


@given(n=st.integers(0, 20), piece=st.integers(1, 9), masked=st.booleans(), as_torch=st.booleans())
@settings(max_examples=60, deadline=None)
def test_merge_puts_together_what_split_took_apart(n, piece, masked, as_torch):
    arrays = [np.arange(n * 6, dtype=np.float32).reshape(n, 2, 3), np.arange(n)]
    arrays += [np.ones((n, 2), bool)] if masked else []
    data = DataSet(*map(torch.from_numpy, arrays)) if as_torch else DataSet(*arrays)
    pieces = data.split(piece)
    assert [len(part) for part in pieces] == [piece] * (n // piece) + ([n % piece] if n % piece else [])
    if n:
        same(DataSet.merge(pieces), data)


@pytest.mark.parametrize("as_torch", [False, True])
@pytest.mark.parametrize("given_parts", [1, 2, 4])
def test_files_give_back_what_was_saved(tmp_path, as_torch, given_parts):
    arrays = [np.random.default_rng(0).random((5, 3)), np.arange(5), np.ones((5, 3), bool), np.zeros(5, np.float16)]
    arrays = [torch.from_numpy(array) if as_torch else array for array in arrays[:given_parts]]
    data = DataSet(*arrays)
    digest = data.save(tmp_path / "d.safetensors")
    assert digest == storage.checksum(tmp_path / "d.safetensors")
    same(DataSet.load(tmp_path / "d.safetensors", expected_checksum=digest), data)


def test_bfloat16_and_urls(tmp_path):
    data = DataSet(torch.ones(3, 2, dtype=torch.bfloat16))
    data.save("memory://d")
    same(DataSet.load("memory://d"), data)
    storage.remove_tree("memory://d")


def test_a_changed_file_is_refused_by_name(tmp_path):
    path = tmp_path / "d.safetensors"
    digest = DataSet(np.ones((4, 2)), np.zeros(4)).save(path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError, match=f"{path} has changed"):
        DataSet.load(path)
    with pytest.raises(StorageError, match=f"{path} has changed"):
        DataSet.load(path, expected_checksum=digest)


def test_other_tensor_files_are_refused(tmp_path):
    storage.write_tensors(tmp_path / "t", {"features": np.ones(2)})
    with pytest.raises(StorageError, match="holds no DataSet"):
        DataSet.load(tmp_path / "t")


@pytest.mark.parametrize(
    ("parts", "error", "text"),
    [
        ((np.ones(3), np.ones(2)), DataError, "features are 3 examples, labels are 2"),
        ((np.ones(3), None, np.ones((2, 2))), DataError, "features_mask are 2"),
        ((np.float32(3) * np.ones(()),), (DataError, UnsupportedError), "features"),
        ((np.array(3.0),), DataError, "no axis of examples"),
        ((None,), DataError, "features are needed"),
        (([1, 2],), UnsupportedError, "not list"),
        ((np.array(["a"]),), UnsupportedError, "an array of <U1"),
        ((np.array([None]),), UnsupportedError, "an array of object"),
        ((np.ones(2), torch.ones(2)), UnsupportedError, "features is numpy, labels is torch"),
    ],
)
def test_what_is_no_data_set_is_refused(parts, error, text):
    with pytest.raises(error, match=text):
        DataSet(*parts)


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([], "nothing to merge"),
        ([DataSet(np.ones(2)), DataSet(np.ones(2), np.ones(2))], "some pieces have labels"),
        ([DataSet(np.ones(2), np.ones(2)), DataSet(np.ones(2))], "some pieces have labels"),
        ([DataSet(np.ones((2, 3))), DataSet(np.ones((2, 4)))], r"\[3\] float64 and \[4\] float64"),
        ([DataSet(np.ones(2)), DataSet(np.ones(2, np.float32))], "float32"),
        ([DataSet(np.ones(2)), DataSet(torch.ones(2))], "features of one example differ"),
    ],
)
def test_pieces_that_do_not_fit_are_refused(pieces, text):
    with pytest.raises(DataError, match=text):
        DataSet.merge(pieces)


def test_pieces_need_an_example():
    with pytest.raises(DataError, match="at least 1 example"):
        DataSet(np.ones(2)).split(0)


@pytest.mark.parametrize("dtype", [">f4", "complex128"])
def test_what_a_file_cannot_hold_is_refused_on_saving(dtype, tmp_path):
    with pytest.raises(UnsupportedError, match="cannot be kept in a file"):
        DataSet(np.zeros((2, 3), dtype)).save(tmp_path / "x")
