"""The weights are the same on all ranks, bit for bit: on real processes, and the same as on threads.

Each option takes 100 steps; ``OPTION_STEPS=500`` in the environment takes as many as that.
"""

import os
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

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SCENES = runpy.run_path(str(SCRIPT))
STEPS = int(os.environ.get("OPTION_STEPS", "100"))


@pytest.mark.parametrize(("launcher", "name"), [GLOO, HVD_MPI, MPI, TORCH])
def test_200_steps(launcher, name):
    check(launcher, name, 200, ["defaults"])


@pytest.mark.mpi
def test_200_steps_on_gradients():
    check("mpi", "mpi", 200, ["gradients"])


@pytest.mark.parametrize(("launcher", "name"), [GLOO, HVD_MPI, MPI, TORCH])
def test_200_steps_with_overlap(launcher, name):
    """Without `synchronise`: what gathers the checksums waits for the last exchange, and closing applies it."""
    output = check(launcher, name, 200, ["overlap"])
    closed_with = re.findall(r"CLOSED WITH (\d+)", output)
    assert len(closed_with) == 2
    assert len(set(closed_with)) == 1
    assert int(closed_with[0]) not in result(output)[0][0]


@pytest.mark.exhaustive
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("launcher", "name"), [GLOO, MPI])
def test_each_option(launcher, name):
    """In one start of the processes."""
    check(launcher, name, STEPS, list(SCENES["OPTIONS"]), limit_s=280)


def check(launcher, name, steps, options, limit_s=180):
    code, output = launched(launcher, 2, SCRIPT, name, str(steps), *options, limit_s=limit_s)
    assert code == 0, output
    found = result(output)
    oracle = run_ranks(SCENES["train_each"], 2, steps, options, timeout_s=limit_s)
    for option, *prints in zip(options, *found, *oracle, strict=True):
        assert prints[0] == prints[1], option
        assert len(set(prints[0])) > 0.9 * steps // 20, f"the weights stood still: {option}"
        if option != "auto":  # which goes by the clock
            assert prints[:2] == prints[2:], option
    return output
