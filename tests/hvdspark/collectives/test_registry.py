"""Which collective a name, or the launcher's environment, leads to."""

import importlib.util
import os

import pytest

from hvdspark.collectives import SoloCollective, open_collective, register, registry, run_ranks
from hvdspark.collectives.environment import Launch
from hvdspark.collectives.mpi import MpiCollective
from hvdspark.errors import ConfigurationError

PREFIXES = ("HOROVOD_", "OMPI_", "PMI", "SLURM_", "RANK", "WORLD_SIZE", "MASTER_", "TORCHELASTIC_")
TORCH = {"RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.fixture
def environment(monkeypatch):
    """An environment without launcher; call it to set variables."""
    for name in [name for name in os.environ if name.startswith(PREFIXES)]:
        monkeypatch.delenv(name)
    return lambda **variables: [monkeypatch.setenv(name, value) for name, value in variables.items()]


@pytest.fixture
def chosen(monkeypatch):
    """The name that "auto" leads to, without opening it."""
    names = []

    def opener_of(name):
        def opener(*, timeout_s=None):
            names.append(name)
            return SoloCollective(timeout_s=timeout_s)

        return opener

    for name in ("horovod", "mpi", "torch"):
        monkeypatch.setitem(registry._openers, name, opener_of(name))
    return names


@pytest.mark.parametrize(
    ("variables", "kind", "size"),
    [
        ({}, "none", 1),
        ({"HOROVOD_RANK": "0"}, "none", 1),
        ({"HOROVOD_RANK": "0", "HOROVOD_SIZE": "4"}, "gloo", 4),
        ({"HOROVOD_RANK": "0", "HOROVOD_SIZE": "4", "OMPI_COMM_WORLD_SIZE": "1"}, "gloo", 4),
        ({"OMPI_COMM_WORLD_SIZE": "3", "PMIX_RANK": "0"}, "mpi", 3),
        ({"PMI_SIZE": "5"}, "mpi", 5),
        ({"PMIX_RANK": "0", "SLURM_STEP_NUM_TASKS": "8"}, "mpi", 8),
        ({"PMIX_RANK": "0"}, "mpi", None),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "8"}, "none", 1),
        (TORCH, "torch", 4),
        ({**TORCH, "SLURM_STEP_NUM_TASKS": "4"}, "torch", 4),
        ({**TORCH, "OMPI_COMM_WORLD_SIZE": "2"}, "mpi", 2),
        ({**TORCH, "OMPI_COMM_WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x"}, "torch", 4),
        ({**TORCH, "TORCHELASTIC_RUN_ID": "x", "HOROVOD_RANK": "0", "HOROVOD_SIZE": "3"}, "gloo", 3),
        ({"RANK": "1", "WORLD_SIZE": "4"}, "none", 1),
    ],
)
def test_launchers_are_told_apart(variables, kind, size):
    assert Launch.detect(variables) == Launch(kind, size)


def test_srun_without_mpi_is_refused():
    with pytest.raises(ConfigurationError, match=r"8 tasks.*--mpi=pmix"):
        Launch.detect({"SLURM_STEP_NUM_TASKS": "8"})


@pytest.mark.parametrize("value", ["", "x", "-1", "0", "1.5"])
def test_a_size_that_is_no_number_is_refused(value):
    with pytest.raises(ConfigurationError, match="HOROVOD_SIZE"):
        Launch.detect({"HOROVOD_RANK": "0", "HOROVOD_SIZE": value})


def test_other_sizes_are_refused():
    Launch("mpi", 4).require_size(4, "MPI")
    Launch("mpi", None).require_size(4, "MPI")
    Launch("none", 1).require_size(4, "MPI")
    with pytest.raises(ConfigurationError, match="started 4 ranks, but MPI sees 1"):
        Launch("mpi", 4).require_size(1, "MPI")


def test_auto_without_launcher_is_solo(environment):
    assert isinstance(open_collective(), SoloCollective)


def test_auto_under_launchers(environment, chosen, monkeypatch):
    environment(OMPI_COMM_WORLD_SIZE="2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    open_collective()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    open_collective("auto", timeout_s=5)
    environment(HOROVOD_RANK="0", HOROVOD_SIZE="2")
    open_collective()
    assert chosen == ["mpi", "horovod", "horovod"]


def test_auto_under_torchrun(environment, chosen, monkeypatch):
    environment(**TORCH)
    open_collective()
    for name in TORCH:
        monkeypatch.delenv(name)
    monkeypatch.setattr(registry, "torch_is_running", lambda: True)
    open_collective()
    assert chosen == ["torch", "torch"]


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({}, "RANK or WORLD_SIZE or MASTER_ADDR or MASTER_PORT.*torchrun"),
        ({**TORCH, "MASTER_PORT": "x"}, "MASTER_PORT must be a number"),
        ({**TORCH, "RANK": "4"}, "RANK is 4 and WORLD_SIZE is 4"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, r'mpirun or srun started 2 processes.*use "mpi"'),
        ({"HOROVOD_RANK": "0", "HOROVOD_SIZE": "2"}, r'Gloo launcher started 2 processes.*use "horovod"'),
    ],
)
def test_torch_is_refused_where_it_finds_no_ranks(environment, variables, told):
    environment(**variables)
    with pytest.raises(ConfigurationError, match=told):
        open_collective("torch")


def test_auto_inside_run_ranks_is_threads_whatever_the_launcher(environment):
    environment(HOROVOD_RANK="0", HOROVOD_SIZE="9")

    def live(collective):
        with open_collective() as own:
            own.barrier()
            return own.name, own.size, own.rank == collective.rank

    assert run_ranks(live, 3) == [("threads", 3, True)] * 3


def test_mpi_is_refused_under_gloo_and_without_launcher(environment):
    with pytest.raises(ConfigurationError, match="no launcher's variables"):
        MpiCollective()
    environment(HOROVOD_RANK="0", HOROVOD_SIZE="2")
    with pytest.raises(ConfigurationError, match=r"Gloo launcher started 2 processes.*horovod"):
        open_collective("mpi")


def test_threads_outside_run_ranks_are_refused():
    with pytest.raises(ConfigurationError, match="run_ranks"):
        open_collective("threads")


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(ConfigurationError, match="'nccl'; the known ones are auto, horovod, mpi, solo, threads, torch"):
        open_collective("nccl")


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan")])
def test_a_limit_of_no_time_is_refused(timeout_s):
    with pytest.raises(ConfigurationError, match="timeout_s"):
        open_collective("solo", timeout_s=timeout_s)


def test_other_packages_can_register(monkeypatch):
    monkeypatch.setattr(registry, "_openers", dict(registry._openers))

    def opener(*, timeout_s=None):
        return SoloCollective(timeout_s=timeout_s)

    register("elsewhere", opener)
    register("elsewhere", opener)
    assert open_collective("elsewhere", timeout_s=3).timeout_s == 3
    for taken in ("elsewhere", "solo", "auto"):
        with pytest.raises(ConfigurationError, match=r"exists already.*elsewhere"):
            register(taken, SoloCollective if taken != "solo" else opener)
