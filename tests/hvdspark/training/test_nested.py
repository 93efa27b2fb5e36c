"""Nested states come back with every type and bit."""

import math
import struct
from collections import Counter, OrderedDict

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from contracts.tensors import bits
from hvdspark import storage
from hvdspark.errors import StorageError, UnsupportedError
from hvdspark.training.nested import flatten, rebuild

_DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


@st.composite
def _tensors(draw):
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    values = draw(st.lists(st.integers(0, 255), min_size=math.prod(shape), max_size=math.prod(shape)))
    tensor = torch.tensor(values, dtype=torch.float64).reshape(shape).to(draw(st.sampled_from(_DTYPES)))
    return tensor.transpose(0, -1) if draw(st.booleans()) and shape else tensor


_numbers = st.one_of(
    st.none(), st.booleans(), st.integers(), st.integers(2**70, 2**80), st.floats(), st.just(-0.0), st.text(max_size=5)
)
_arrays = st.one_of(
    st.sampled_from([np.float64(0.1), np.float32("nan"), np.int64(-3), np.uint32(2**32 - 1), np.bool_(True)]),
    st.lists(st.integers(0, 2**32 - 1), max_size=3).map(lambda values: np.array(values, np.uint32)),
)
_keys = st.one_of(st.integers(), st.text(max_size=3), st.booleans(), st.none(), st.tuples(st.integers()))


def _containers(inner):
    dicts = st.dictionaries(_keys, inner, max_size=3)
    return st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        dicts,
        dicts.map(OrderedDict),
        st.dictionaries(st.integers(), st.integers(), max_size=3).map(Counter),
    )


def check_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert (one.dtype, one.shape, bits(one)) == (other.dtype, other.shape, bits(other))
    elif isinstance(one, np.ndarray | np.generic):
        assert (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())
    elif isinstance(one, dict):
        check_same(list(one), list(other))
        check_same(list(one.values()), list(other.values()))
    elif isinstance(one, list | tuple):
        assert len(one) == len(other)
        for each, theirs in zip(one, other, strict=True):
            check_same(each, theirs)
    elif isinstance(one, float) and not math.isnan(one):
        assert struct.pack("<d", one) == struct.pack("<d", other)
    else:
        assert one == other or (one != one and other != other)


@given(st.recursive(st.one_of(_numbers, _arrays, _tensors()), _containers, max_leaves=12))
def test_a_state_comes_back_as_it_was(tmp_path_factory, state):
    tensors, structure = flatten(state)
    check_same(state, rebuild(tensors, structure))
    path = tmp_path_factory.getbasetemp() / "state.safetensors"
    storage.write_tensors(path, tensors, {"structure": structure})
    read, metadata = storage.read_tensors(path, framework="torch")
    check_same(state, rebuild(read, metadata["structure"]))


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.SGD, torch.optim.Adagrad, torch.optim.Rprop])
def test_states_of_optimizers_and_schedulers_come_back(optimizer):
    parameter = torch.nn.Parameter(torch.ones(3))
    made = optimizer([parameter], lr=0.1)
    scheduler = torch.optim.lr_scheduler.MultiStepLR(made, [2, 3])
    parameter.sum().backward()
    made.step()
    scheduler.step()
    for state in (made.state_dict(), scheduler.state_dict()):
        check_same(state, rebuild(*flatten(state)))


@pytest.mark.parametrize(
    "state", [{"a": [object()]}, {"a": [torch.Size([2])]}, {"a": [torch.eye(2).to_sparse()]}, {"a": [np.array(["x"])]}]
)
def test_what_cannot_be_kept_is_named_with_its_place(state):
    with pytest.raises(UnsupportedError, match=r"^mine\['a'\]\[0\] is a .*cannot keep"):
        flatten(state, "mine")


@pytest.mark.parametrize("structure", ["", "{", '{"tensor": "3"}', '{"object": []}', "{}", '{"dict": 3}', "[" * 10**5])
def test_other_texts_are_refused(structure):
    with pytest.raises(StorageError, match="cannot be put together"):
        rebuild({}, structure)
