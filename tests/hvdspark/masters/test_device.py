"""Where a network is used: which device, and what goes there; `meta` stands for one that is not the CPU."""

import functools
import re
import weakref
from typing import ClassVar

import cloudpickle
import numpy as np
import pytest
import torch
from torch import nn

from hvdspark import JointLoss, Network
from hvdspark.data import Field, Rows
from hvdspark.errors import ConfigurationError, ModelError
from hvdspark.masters import Parcel, copy_on, device, forget, inferring, is_fatal, parcel, task_device
from hvdspark.spark import matrices
from hvdspark.spark.batches import said
from hvdspark.spark.matrices import predict_matrix
from hvdspark.spark.passes import emitted

META = torch.device("meta")
STILL = functools.partial(torch.optim.SGD, lr=0.0)


class Task:
    def __init__(self, partition=0, *addresses):
        self._partition, self._addresses = partition, addresses

    def partitionId(self):  # noqa: N802 - as Spark calls it
        return self._partition

    def resources(self):
        return {"gpu": type("Information", (), {"addresses": self._addresses})} if self._addresses else {}


@pytest.fixture
def see(monkeypatch):
    """Let a task of Spark see some cards."""

    from pyspark import TaskContext

    def see(gpus, task, visible=None):
        monkeypatch.setattr(device, "visible_gpus", lambda: tuple(gpus))
        monkeypatch.setattr(device, "_turns", [])
        monkeypatch.setattr(TaskContext, "get", lambda: task)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)

    return see


# ---- which device --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "gpus", "task", "visible", "expected"),
    [
        ("auto", "", Task(3), None, "cpu"),
        ("auto", "", None, None, "cpu"),
        ("auto", "ab", None, None, "cuda:0"),
        ("auto", "ab", Task(0), None, "cuda:0"),
        ("auto", "ab", Task(3), None, "cuda:1"),
        ("cuda", "ab", Task(3), None, "cuda:1"),
        ("cuda:0", "ab", Task(3), None, "cuda:0"),
        ("auto", "ab", Task(0, "1"), None, "cuda:1"),
        ("auto", "a", Task(0, "5"), "5", "cuda:0"),  # the number of the card on the host
        ("cuda:0", "ab", Task(0, "1"), None, "cuda:0"),  # as ranks do: who names one means it
        ("auto", "ab", Task(0, "1", "0"), None, "cuda:1"),
        ("cpu", "ab", Task(0, "1"), None, "cpu"),
    ],
)
def test_the_device_of_a_task(see, wanted, gpus, task, visible, expected):
    see([f"GPU-{each}" for each in gpus], task, visible)
    assert task_device(wanted) == torch.device(expected)


def test_a_process_stays_with_its_first_card(see):
    task = Task(4)
    see(["GPU-a", "GPU-b", "GPU-c"], task)
    first = task_device("auto")
    task._partition = 5
    assert task_device("auto") == first == torch.device("cuda:1")


def test_the_cpu_needs_no_look(monkeypatch):
    monkeypatch.setattr(device, "visible_gpus", lambda: pytest.fail("looked"))
    assert task_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(
    ("wanted", "gpus", "task", "words"),
    [
        ("cuda", [], Task(), "device='cuda', but torch sees no GPU on "),
        ("cuda:1", [], Task(0, "3"), "no GPU on .*, although Spark gave the task GPU 3: install .*device='cpu'"),
        ("cuda:1", ["GPU-a"], Task(), "device='cuda:1', but torch sees 1 on .* \\(GPU-a\\): .*device='cpu'"),
        ("auto", ["GPU-a"], Task(0, "7"), "Spark gave the task GPU 7, but torch sees 1 on .*discovery script"),
    ],
)
def test_a_card_that_is_not_there(see, wanted, gpus, task, words):
    see(gpus, task)
    with pytest.raises(ConfigurationError, match=words):
        task_device(wanted)


def test_a_card_that_torch_does_not_see_is_told_of_once(see, caplog):
    see([], Task(0, "6"))
    device._warn_of_blindness.cache_clear()
    assert [task_device("auto").type for _ in range(2)] == ["cpu", "cpu"]
    assert len(caplog.records) == 1
    assert "Spark gave GPU 6 to a task" in caplog.text


# ---- what goes there -----------------------------------------------------------------------------------------------


def weighed():
    loss = JointLoss([nn.CrossEntropyLoss(weight=torch.ones(3)), nn.MSELoss()])
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    return Network(module, loss, STILL, output=nn.BatchNorm1d(3))


def tensors(network):
    loss = network.loss.losses[0] if isinstance(network.loss, JointLoss) else network.loss
    return [*network.module.parameters(), *network.module.buffers(), loss.weight, *network.output.buffers()]


@pytest.fixture
def elsewhere(monkeypatch):
    """Let tasks compute on a device that the test names."""
    where = [META]
    monkeypatch.setattr(parcel, "task_device", lambda wanted: where[0] if wanted == "auto" else torch.device(wanted))
    monkeypatch.setattr(parcel, "_kept", {})
    return where


def test_a_network_goes_to_its_device_once(elsewhere):
    sent = Parcel(weighed(), "auto")
    there = sent.shared()
    assert {each.device for each in tensors(there)} == {META}
    assert not there.module.training
    assert sent.shared() is there
    elsewhere[0] = torch.device("cpu")  # the next task of the same worker, with another GPU
    here = sent.shared()
    assert {each.device.type for each in tensors(here)} == {"cpu"}
    elsewhere[0] = META
    assert sent.shared() is there
    assert {each.device.type for each in tensors(Parcel(weighed(), "cpu").open())} == {"cpu"}


def test_another_network_takes_the_place_on_every_device(elsewhere):
    Parcel(weighed(), "auto").shared()
    Parcel(weighed(), "cpu").shared()
    assert len(parcel._kept) == 1


def test_a_copy_leaves_the_network_where_it_is():
    network = weighed()
    there = copy_on(network, META)
    assert {each.device for each in tensors(there)} == {META}
    assert {each.device.type for each in tensors(network)} == {"cpu"}
    assert copy_on(network, torch.device("cpu")) is network


class Far(nn.Linear):
    """Can leave `meta`, which tensors with values cannot."""

    def to(self, device):
        return self.to_empty(device=device)


def test_a_network_on_a_gpu_travels_as_one_on_the_cpu():
    network = Network(Far(2, 3, device="meta"), nn.MSELoss(), STILL)
    sent = cloudpickle.loads(Parcel(network, "auto")._data)
    assert {each.device.type for each in sent.module.parameters()} == {"cpu"}
    assert network.module.weight.device == META


def test_a_copy_may_be_asked_for_elsewhere(elsewhere):
    assert {each.device.type for each in tensors(Parcel(weighed(), "auto").open("cpu"))} == {"cpu"}


class Scaled(nn.Module):
    """Multiplies, and tells what it saw."""

    def __init__(self, seen):
        super().__init__()
        self.tell = seen.append
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, x):
        self.tell(x)
        return x * self.weight


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "uint8", "bool"])
def test_batches_go_where_the_network_lies(dtype):
    seen = []
    network = copy_on(Network(Scaled(seen), nn.MSELoss(), STILL), META)
    fields = (
        Field("feature", 0, "x", dtype, (2,), ""),
        Field("label", 0, "y", "float64", (2,), ""),
        Field("weight", 0, "w", "float32", (), ""),
    )
    arrays = np.ones((5, 2), dtype), np.ones((5, 2)), np.ones(5, np.float32)
    batches = list(emitted(network, [Rows(5, fields, arrays)], 3))
    assert [batch.size for batch in batches] == [3, 2]
    assert {(each.device, each.dtype) for each in seen} == {(META, getattr(torch, dtype))}
    for batch in batches:
        assert {batch.output.device, batch.labels.device, batch.weights.device} == {META}
        assert batch.labels.dtype == torch.float64


# ---- what goes wrong there -----------------------------------------------------------------------------------------


class Failing(nn.Module):
    """Fails on whatever it is given."""

    def __init__(self, error):
        super().__init__()
        self.error = error
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        raise self.error


def ask(error, where):
    network = copy_on(Network(Failing(error), nn.MSELoss(), STILL), torch.device(where))
    rows = Rows(1, (Field("feature", 0, "x", "float32", (2,), ""),), (np.ones((1, 2), np.float32),))
    said(network, [rows], 1, several=False)


def test_memory_that_runs_out_is_told_with_the_fix():
    with pytest.raises(ModelError, match=r"(?s)meta on .*smaller batch_size.*device='cpu'.*Tried to allocate") as told:
        ask(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), "meta")
    assert isinstance(told.value.__cause__, torch.OutOfMemoryError)


def test_other_errors_say_where_they_were():
    with pytest.raises(RuntimeError, match="addmm") as told:
        ask(RuntimeError('"addmm_cuda" not implemented for Long'), "meta")
    assert re.search(r"on meta of .*device='cpu'", "".join(told.value.__notes__))
    with pytest.raises(RuntimeError, match="here") as told:
        ask(RuntimeError("here"), "cpu")
    assert not hasattr(told.value, "__notes__")


def test_a_network_that_does_not_fit_is_told(monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("full")

    network = weighed()
    monkeypatch.setattr(network.module, "to", full)
    with pytest.raises(ModelError, match=r"does not fit into its memory.*device='cpu'"):
        device.moved(network, META)


def test_gradients_are_off_and_come_back():
    network = weighed()
    with inferring(network) as where:
        assert where.type == "cpu"
        assert torch.is_inference_mode_enabled()
    assert not torch.is_inference_mode_enabled()


# ---- what is left there --------------------------------------------------------------------------------------------


class Remembered(nn.Linear):
    """Fails, and tells what is left of all that were called."""

    called: ClassVar = weakref.WeakSet()

    def forward(self, x):
        self.called.add(self)
        kept = x + 1  # as a module's activations
        raise torch.OutOfMemoryError(f"no room for {kept.shape}")


def test_memory_is_given_back_after_what_failed_has_let_go_of_it(monkeypatch):
    left = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: left.append(len(Remembered.called)))
    monkeypatch.setattr(matrices, "task_device", lambda _: META)
    with pytest.raises(ModelError, match="smaller batch_size") as told:
        predict_matrix(Network(Remembered(2, 3), nn.MSELoss(), STILL), np.ones((4, 2)), 2, device="cuda")
    assert left == [0]
    assert "no room" in str(told.value.__cause__)


def test_a_failed_gpu_does_not_hide_what_failed(monkeypatch):
    def fail():
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", fail)
    forget()


def test_what_a_gpu_does_not_get_over():
    asserted = torch.AcceleratorError("CUDA error: device-side assert triggered")
    wrapped = ModelError("the metric failed")
    wrapped.__cause__ = asserted
    assert is_fatal(asserted)
    assert is_fatal(wrapped)
    assert not is_fatal(torch.AcceleratorError("CUDA error: out of memory"))
    assert not is_fatal(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_fatal(RuntimeError("device-side assert"))
