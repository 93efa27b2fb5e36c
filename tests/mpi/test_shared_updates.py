"""The weights are the same on all ranks, bit for bit: on real processes, and the same as on threads."""

import json
import re
import runpy
from pathlib import Path

import pytest

from contracts.processes import launched, result
from hvdspark.collectives import run_ranks

SCRIPT = Path(__file__).with_name("shared_updates_ranks.py")
GLOO = pytest.param("gloo", "horovod", marks=pytest.mark.horovod, id="horovod-gloo")
HVD_MPI = pytest.param("mpi", "horovod", marks=[pytest.mark.horovod, pytest.mark.mpi], id="horovod-mpi")
MPI = pytest.param("mpi", "mpi", marks=pytest.mark.mpi, id="mpi")
TORCH = pytest.param("torch", "torch", id="torch")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


@pytest.mark.parametrize(("launcher", "name"), [GLOO, HVD_MPI, MPI, TORCH])
def test_200_steps(launcher, name):
    check(launcher, name, {})


@pytest.mark.mpi
def test_200_steps_on_gradients():
    check("mpi", "mpi", {"encode": "gradients"})


@pytest.mark.parametrize(("launcher", "name"), [GLOO, HVD_MPI, MPI, TORCH])
def test_200_steps_with_overlap(launcher, name):
    """Without `synchronise`: what gathers the checksums waits for the last exchange, and closing applies it."""
    output = check(launcher, name, {"overlap": "next_step"})
    closed_with = re.findall(r"CLOSED WITH (\d+)", output)
    assert len(closed_with) == 2
    assert len(set(closed_with)) == 1
    assert int(closed_with[0]) not in result(output)[0]


def check(launcher, name, options):
    code, output = launched(launcher, 2, SCRIPT, name, json.dumps(options))
    assert code == 0, output
    prints = result(output)
    assert prints[0] == prints[1]
    assert len(set(prints[0])) == 10, "the weights stood still"
    train = runpy.run_path(str(SCRIPT))["train"]
    assert prints == run_ranks(train, 2, 200, options)
    return output
