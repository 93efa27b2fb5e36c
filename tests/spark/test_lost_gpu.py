"""A pass over rows in which something fails on a GPU: what becomes of the worker, and of its memory."""

import contextlib
import os
import types
import weakref
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from contracts.table import CLASSES, WIDTH, make_master, make_network
from hvdspark import Network, SparkMultiLayer
from hvdspark.data import Field, Rows, Table
from hvdspark.errors import ConfigurationError, ModelError
from hvdspark.masters import Parcel
from hvdspark.spark import inference, passes
from hvdspark.spark.batches import said

FIELDS = (Field("feature", 0, "x", "float32", (WIDTH,), ""),)


class Failing(torch.nn.Linear):
    """Fails, and tells what is left of all that were called."""

    called: ClassVar = weakref.WeakSet()

    def __init__(self, error):
        super().__init__(WIDTH, CLASSES)
        self.error = error

    def forward(self, x):
        self.called.add(self)
        raise self.error(f"for {x.shape}")


def fail(monkeypatch, error):
    """Run a task in which each batch fails; return its lines, and how many networks there were as memory went back."""
    left = []
    monkeypatch.setattr(passes, "forget", lambda: left.append(len(Failing.called)))

    def opened():
        return Network(Failing(error), torch.nn.CrossEntropyLoss(), torch.optim.SGD)

    def work(network, source):
        return bytes(said(network, source, 4, several=False))

    task = passes._Task(
        types.SimpleNamespace(open=opened), work, types.SimpleNamespace(hold=contextlib.nullcontext), frozenset()
    )
    return task([Rows(2, FIELDS, (np.ones((2, WIDTH), np.float32),))], 3), left


def test_memory_goes_back_after_the_error_has_let_go_of_it(monkeypatch):
    (line,), left = fail(monkeypatch, torch.OutOfMemoryError)
    assert left == [0]
    outcome = passes._Outcome.from_json(line)
    assert (outcome.error, outcome.rows.partition) == ("ModelError", 3)
    assert "OutOfMemoryError in partition 3: for torch.Size" in outcome.text


def test_only_a_gpu_that_failed_for_good_is_raised(monkeypatch):
    with pytest.raises(ModelError, match=r"failed for good.*AcceleratorError in partition 3"):
        fail(monkeypatch, torch.AcceleratorError)


def test_the_gpu_of_a_training_master_is_one_of_the_workers(monkeypatch):
    monkeypatch.setattr("hvdspark.masters.device.visible_gpus", tuple)
    network = make_network(torch.nn.MSELoss())
    model = SparkMultiLayer(object(), network, make_master(device="cuda:1"))  # the driver needs no Spark for these
    rows = np.zeros((100, WIDTH), np.float32)
    assert model.predict(rows, batch_size=10).shape == (100, CLASSES)
    plan = types.SimpleNamespace(blank=lambda: Rows(1, FIELDS, (rows[:1],)))
    stream = Table(types.SimpleNamespace(isStreaming=True), plan)
    assert inference._widths(Parcel(network, "cuda:1"), stream, several=False) == [CLASSES]
    model.device = "cuda"
    with pytest.raises(ConfigurationError, match="device='cuda', but torch sees no GPU"):
        model.predict(rows)


class Asserting(torch.nn.Linear):
    """Fails as CUDA does, and writes down in which process."""

    def __init__(self, path):
        super().__init__(WIDTH, CLASSES)
        self.path = str(path)

    def forward(self, x):
        with Path(self.path).open("a") as file:
            file.write(f"{os.getpid()}\n")
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")


@pytest.mark.spark
@pytest.mark.timeout(300)
def test_the_python_worker_ends(spark, table, tmp_path):
    network = Network(Asserting(tmp_path / "log"), torch.nn.CrossEntropyLoss(), torch.optim.SGD)
    model = SparkMultiLayer(spark, network, device="cpu")
    for _ in range(2):
        with pytest.raises(
            ModelError, match=r"(?s)Python worker: AcceleratorError in partition 0: .*device-side assert"
        ):
            model.calculate_score(table.coalesce(1))
    processes = (tmp_path / "log").read_text().splitlines()
    assert len(processes) == len(set(processes)) == 2
