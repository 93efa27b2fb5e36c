"""The laws of everything that holds examples: DataSet and MultiDataSet."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hvdspark import storage
from hvdspark.data import DataSet, MultiDataSet
from hvdspark.errors import DataError, StorageError, UnsupportedError

NUMPY_DTYPES = ["bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]
NUMPY_DTYPES += ["float16", "float32", "float64", "complex64"]
TORCH_DTYPES = [*NUMPY_DTYPES, "bfloat16", "float8_e4m3fn", "float8_e5m2"]
B = 32


def random_array(seed, shape, dtype, *, as_torch):
    """Any bits that the dtype has, NaN among them."""
    tensor = torch.empty(shape, dtype=getattr(torch, dtype))
    raw = tensor.reshape(-1).view(torch.uint8)
    bits = np.random.default_rng(seed).integers(0, 2 if dtype == "bool" else 256, len(raw), dtype=np.uint8)
    raw.copy_(torch.from_numpy(bits))
    return tensor if as_torch else tensor.numpy()


def data_set(n, dtype="float32", *, as_torch=False):
    shapes = [(n, 2, 3), (n,), (n, 2), (n,)]
    return DataSet(*(random_array(i, shape, dtype, as_torch=as_torch) for i, shape in enumerate(shapes)))


def multi_data_set(n, dtype="float32", *, as_torch=False):
    arrays = [random_array(i, (n, *([2] * i)), dtype, as_torch=as_torch) for i in range(4)]
    return MultiDataSet(arrays[:3], arrays[3:], [None, arrays[1], None], [arrays[0]])


KINDS = pytest.mark.parametrize("make", [data_set, multi_data_set])


@KINDS
@pytest.mark.parametrize("as_torch", [False, True])
@pytest.mark.parametrize("n", [1, B - 1, B, B + 1, 1000])
@pytest.mark.parametrize("piece", [1, 7, B])
def test_merge_puts_together_what_split_took_apart(make, as_torch, n, piece):
    data = make(n, as_torch=as_torch)
    pieces = data.split(piece)
    assert [len(each) for each in pieces] == [piece] * (n // piece) + [n % piece] * (n % piece > 0)
    assert type(data).merge(pieces) == data
    assert data.batch_by(piece) == pieces


@KINDS
@given(n=st.integers(0, 70), seed=st.integers(0, 2**31), as_torch=st.booleans())
@settings(max_examples=40, deadline=None)
def test_shuffling_moves_the_rows_of_an_example_together(make, n, seed, as_torch):
    data = make(n, as_torch=as_torch)
    numbers = torch.arange(n) if as_torch else np.arange(n)
    numbered = dict.fromkeys(data.parts(), numbers)
    mixed = type(data).from_parts(numbered).shuffle(seed)
    orders = [part.reshape(-1).tolist() for part in mixed.parts().values()]
    assert all(order == orders[0] for order in orders)
    assert sorted(orders[0]) == list(range(n))
    again = data.shuffle(seed)
    assert again == data.shuffle(seed)
    for name, part in data.parts().items():
        assert repr(again.parts()[name].tolist()) == repr(
            part[orders[0]].tolist()
        )  # repr: a NaN is not equal to itself


def test_shuffling_is_not_the_identity_and_hangs_on_the_seed():
    data = data_set(50)
    assert len({tuple(data.shuffle(seed).labels.tolist()) for seed in range(5)}) == 5
    assert data != data.shuffle(0)


@KINDS
@pytest.mark.parametrize(
    ("as_torch", "dtype"), [(False, each) for each in NUMPY_DTYPES] + [(True, each) for each in TORCH_DTYPES]
)
def test_files_give_back_every_bit(make, as_torch, dtype, tmp_path):
    for n in (0, 1, 33):
        data = make(n, dtype, as_torch=as_torch)
        digest = data.save(tmp_path / "d")
        again = type(data).load(tmp_path / "d", expected_checksum=digest)
        assert again == data
        assert [type(part) for part in again.parts().values()] == [type(part) for part in data.parts().values()]
        assert data.save(tmp_path / "e") == digest


@KINDS
def test_views_with_strides_are_saved_as_what_they_show(make, tmp_path):
    data = make(40)
    view = type(data).from_parts({name: part[::-3] for name, part in data.parts().items()})
    view.save(tmp_path / "d")
    assert type(data).load(tmp_path / "d") == view


@KINDS
@pytest.mark.parametrize("as_torch", [False, True])
def test_every_changed_bit_of_a_file_is_found(make, as_torch, tmp_path):
    data, path = make(2, as_torch=as_torch), tmp_path / "d"
    data.save(path)
    whole = path.read_bytes()
    for place in range(len(whole)):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match=str(path)):
            type(data).load(path)


@pytest.mark.parametrize(
    ("told", "instead"),
    [(b'"F32"', b'"I32"'), (b"[2,2,3]", b"[2,3,2]"), (b'"labels"', b'"aabels"'), (b"numpy", b"torch")],
)
def test_a_header_that_was_changed_into_another_that_makes_sense_is_found(told, instead, tmp_path):
    data_set(2).save(tmp_path / "d")
    whole = (tmp_path / "d").read_bytes()
    assert told in whole
    (tmp_path / "d").write_bytes(whole.replace(told, instead))
    with pytest.raises(StorageError, match="has changed since it was saved"):
        DataSet.load(tmp_path / "d")


@KINDS
def test_every_cut_of_a_file_is_found_and_so_is_what_was_added(make, tmp_path):
    data, path = make(2), tmp_path / "d"
    data.save(path)
    whole = path.read_bytes()
    for changed in [*(whole[:end] for end in range(len(whole))), whole + b"\0", whole + whole]:
        path.write_bytes(changed)
        with pytest.raises(StorageError, match=str(path)):
            type(data).load(path)


def test_a_file_of_another_class_is_refused_by_its_name(tmp_path):
    data_set(3).save(tmp_path / "d")
    with pytest.raises(StorageError, match="holds no MultiDataSet, but a DataSet"):
        MultiDataSet.load(tmp_path / "d")
    with pytest.raises(StorageError, match=r"nothing\.here"):
        DataSet.load(tmp_path / "nothing.here")
    storage.write_bytes(tmp_path / "p", b"\x80\x04K\x01.")  # a pickle
    with pytest.raises(StorageError, match="no whole safetensors file"):
        DataSet.load(tmp_path / "p")


@KINDS
@pytest.mark.parametrize("dtype", ["complex128", ">f4", "longdouble"])
def test_what_a_file_cannot_hold_is_refused_before_it_is_written(make, dtype, tmp_path):
    data = type(make(1)).from_parts({name: part.astype(dtype) for name, part in make(2).parts().items()})
    with pytest.raises(UnsupportedError, match=r"features.*cannot be kept in a file"):
        data.save(tmp_path / "d")
    assert not list(tmp_path.iterdir())


def test_torch_dtypes_that_a_file_cannot_hold_are_refused_too(tmp_path):
    with pytest.raises(UnsupportedError, match=r"features: torch\.complex128"):
        DataSet(torch.zeros(2, dtype=torch.complex128)).save(tmp_path / "d")


@pytest.mark.parametrize("as_torch", [False, True])
def test_where_only_some_have_a_mask_the_others_get_ones(as_torch):
    def arrays(n):
        return [random_array(0, (n, 2), dtype, as_torch=as_torch) for dtype in ("float32", "uint8")]

    (x, mask), (y, _), (z, _) = arrays(3), arrays(2), arrays(1)
    merged = DataSet.merge([DataSet(y), DataSet(x, features_mask=mask), DataSet(z)])
    assert merged.features_mask.tolist() == [[1, 1]] * 2 + mask.tolist() + [[1, 1]]
    assert merged.features_mask.dtype == mask.dtype
    several = MultiDataSet.merge([MultiDataSet([x, x], (), [None, mask]), MultiDataSet([y, y])])
    assert several.features_masks[0] is None
    assert several.features_masks[1].tolist() == mask.tolist() + [[1, 1]] * 2


def test_equality():
    data = data_set(5)
    assert data == data_set(5)
    assert data != data.split(4)[0]
    assert data != DataSet(data.features, data.labels)
    assert data != DataSet(*(torch.from_numpy(part) for part in data.parts().values()))
    assert data != DataSet(data.features.view(np.int32), *list(data.parts().values())[1:])
    assert MultiDataSet([data.features]) != DataSet(data.features)
    assert DataSet(np.array([np.nan])) == DataSet(np.array([np.nan]))
    assert DataSet(np.array([0.0])) != DataSet(np.array([-0.0]))
    with pytest.raises(TypeError, match="unhashable"):
        hash(data)


def test_repr_tells_sizes_and_dtypes():
    assert repr(DataSet(np.ones((5, 3), np.float32), torch.arange(5).numpy())) == (
        "DataSet(5 examples: features [3] float32, labels [] int64)"
    )
    assert repr(MultiDataSet([torch.ones(2, 3), torch.ones(2)])) == (
        "MultiDataSet(2 examples: features_0 [3] float32, features_1 [] float32)"
    )


class TestSplitTestAndTrain:
    @pytest.mark.parametrize(("train", "expected"), [(7, 7), (1, 1), (9, 9), (0.5, 5), (0.99, 9), (0.001, 1)])
    def test_counts_and_shares(self, train, expected):
        data = data_set(10)
        parts = data.split_test_and_train(train)
        assert len(parts.train) == expected
        assert DataSet.merge([parts.train, parts.test]) == data

    def test_a_seed_mixes_first(self):
        data = data_set(10)
        parts = data.split_test_and_train(6, seed=3)
        assert DataSet.merge(list(parts)) == data.shuffle(3)

    @pytest.mark.parametrize("train", [0, 10, 11, -1, 0.0, 1.0, 1.5, -0.5])
    def test_no_part_is_empty(self, train):
        with pytest.raises(DataError, match="leaves a part empty"):
            data_set(10).split_test_and_train(train)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: MultiDataSet([]), DataError, "features are needed"),
        (lambda: MultiDataSet(np.ones(3)), UnsupportedError, "features: a list of arrays is needed, not a ndarray"),
        (lambda: MultiDataSet([np.ones(3), None]), UnsupportedError, "features_1"),
        (lambda: MultiDataSet([np.ones(3)], [np.ones(2)]), DataError, "features_0 are 3 examples, labels_0 are 2"),
        (lambda: MultiDataSet([np.ones(3)], (), [None, None]), DataError, "1 features, but 2 features_masks"),
        (lambda: MultiDataSet([np.ones(3)], [np.ones(3)], (), [np.ones(2)]), DataError, "labels_mask_0 are 2"),
        (lambda: MultiDataSet([np.ones(3), torch.ones(3)]), UnsupportedError, "features_1 is torch"),
        (lambda: MultiDataSet.merge([MultiDataSet([np.ones(1)] * k) for k in (1, 2)]), DataError, "features_1 and oth"),
        (lambda: MultiDataSet.merge([DataSet(np.ones(1))]), UnsupportedError, "not DataSet"),
        (lambda: MultiDataSet.from_parts({"features_1": np.ones(1)}), DataError, "no place for features_1"),
        (lambda: MultiDataSet.from_parts({"features_0": np.ones(1), "x": np.ones(1)}), DataError, "no place for x"),
    ],
)
def test_what_is_no_multi_data_set_is_refused(make, error, text):
    with pytest.raises(error, match=text):
        make()


def test_a_data_set_is_a_multi_data_set_of_one():
    data = data_set(3)
    assert MultiDataSet.of(data).features_masks[0] is data.features_mask
    bare = MultiDataSet.of(DataSet(data.features))
    assert bare.labels == bare.features_masks == ()
