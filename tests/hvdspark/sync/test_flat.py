"""FlatParameters: one buffer, the parameters its views."""

import copy
import threading

import numpy as np
import pytest
import torch

from contracts.tensors import LAWS
from hvdspark.collectives import run_ranks
from hvdspark.errors import ModelError, UnsupportedError
from hvdspark.sync import FlatParameters, mean_buffers_
from hvdspark.sync.flat import parameters_of


def make():
    return torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3, bias=False))


def test_parameters_and_buffer_are_the_same_memory():
    module = make()
    before = torch.cat([p.detach().reshape(-1) for p in module.parameters()])
    flat = FlatParameters(list(module.parameters()))
    assert torch.equal(flat.weights, before)
    flat.weights.mul_(2)
    assert torch.equal(module[2].weight.reshape(-1), 2 * before[24:])
    with torch.no_grad():
        module[0].bias.fill_(7)
    assert torch.equal(flat.weights[20:24], torch.full((4,), 7.0))


def test_forward_backward_and_optimizer_go_on_as_before():
    plain = make()
    bound = copy.deepcopy(plain)
    flat = FlatParameters(list(bound.parameters()))
    for module in (plain, bound):
        optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
        for _ in range(3):
            optimizer.zero_grad()
            module(torch.ones(2, 5)).square().sum().backward()
            optimizer.step()
    flat.check_bound(optimizer)
    assert torch.equal(torch.cat([p.detach().reshape(-1) for p in plain.parameters()]), flat.weights)


def test_gradients_go_out_and_come_back():
    module = make()
    flat = FlatParameters(list(module.parameters()))
    module[0](torch.ones(1, 5)).sum().backward()  # the last layer has no gradient
    out = torch.full((flat.n,), float("nan"))
    flat.gather_gradients(out)
    assert torch.equal(out[24:], torch.zeros(12))
    assert torch.equal(out[20:24], torch.ones(4))
    flat.scatter_gradients(out * 3, np.array([True, True, False]))
    assert torch.equal(module[0].bias.grad, torch.full((4,), 3.0))
    assert module[2].weight.grad is None


def test_names_and_spans():
    module = make()
    flat = FlatParameters(list(module.parameters()))
    assert flat.names(module.named_parameters()) == [("0.weight", 0, 20), ("0.bias", 20, 24), ("2.weight", 24, 36)]
    assert flat.names(None)[1] == ("parameter 1", 20, 24)


def test_fingerprint_sees_one_bit():
    module = make()
    flat = FlatParameters(list(module.parameters()))
    before = flat.fingerprint()
    flat.weights.view(torch.int32)[3] ^= 1
    assert flat.fingerprint() != before


def test_frozen_parameters_are_not_taken():
    module = make()
    module[0].bias.requires_grad_(False)
    optimizer = torch.optim.SGD(
        [{"params": [module[0].weight]}, {"params": [module[0].bias, module[2].weight]}], lr=0.1
    )
    assert [p is q for p, q in zip(parameters_of(optimizer), (module[0].weight, module[2].weight), strict=True)] == [
        1,
        1,
    ]


def test_refusals():
    with pytest.raises(ModelError, match="no trainable parameters"):
        FlatParameters([])
    with pytest.raises(UnsupportedError, match=r"float64.*module\.float"):
        FlatParameters(list(make().double().parameters()))
    for dtype in (torch.bfloat16, torch.float16):
        with pytest.raises(UnsupportedError, match=rf"{str(dtype)[6:]}: call module\.float\(\) first.*torch\.autocast"):
            FlatParameters(list(make().to(dtype).parameters()))


def test_buffers_are_averaged_and_counters_left():
    lock = threading.Lock()

    def fn(world):
        with lock:
            module = torch.nn.BatchNorm1d(3)
        module.running_mean.fill_(float(world.rank))
        module.num_batches_tracked.fill_(4)
        mean_buffers_(module, world)
        return module.running_mean.numpy(), int(module.num_batches_tracked)

    for mean, batches in run_ranks(fn, 3):
        np.testing.assert_array_equal(mean, np.ones(3, np.float32))
        assert batches == 4


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_tensors_of_any_dtype_travel(law, size):
    run_ranks(law, size)


def test_equal_buffers_stay_as_they_are_to_the_bit():
    constants = torch.from_numpy(np.random.default_rng(0).standard_normal(1000))

    def fn(world):
        module = torch.nn.Module()
        module.register_buffer("narrow", constants.float())
        module.register_buffer("wide", constants.clone())
        module.register_buffer("mask", torch.tensor([0.0, -torch.inf]))
        module.register_buffer("view", torch.ones(1).expand(5))  # cannot be written to
        module.register_buffer("statistics", torch.full((2,), float(world.rank)))
        mean_buffers_(module, world)
        assert torch.equal(module.narrow, constants.float())
        assert torch.equal(module.wide, constants)
        assert module.mask.tolist() == [0.0, -torch.inf]
        assert module.statistics.tolist() == [1.0, 1.0]

    run_ranks(fn, 3)
