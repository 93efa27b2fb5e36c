"""The examples do what the docs say, each by the command that they name."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
BIN = Path(sys.executable).parent


def run(*command, cwd=EXAMPLES, timeout=280, activated=True):
    """Run a command of the docs, with the environment activated or not; return what it printed."""
    path = [folder for folder in os.environ["PATH"].split(os.pathsep) if Path(folder) != BIN]
    environment = {**os.environ, "PATH": os.pathsep.join([str(BIN)] * activated + path)}
    environment |= {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    environment |= {"OMPI_MCA_rmaps_base_oversubscribe": "1"}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def reports(printed):
    """Find the dicts that the ranks printed (launchers may put a rank's tag before a line)."""
    return [ast.literal_eval(found) for found in re.findall(r"\{'rank'.*?\}", printed)]


def check_two_ranks(found):
    assert sorted(each["rank"] for each in found) == [0, 1]
    assert {each["size"] for each in found} == {2}
    assert len({each["weights"] for each in found}) == 1
    assert min(each["accuracy"] for each in found) > 0.9
    assert min(each["bytes"] for each in found) > 0


@pytest.mark.slow
def test_alone():
    (report,) = reports(run(BIN / "python", "train.py"))
    assert (report["size"], report["bytes"]) == (1, 0)
    assert report["accuracy"] > 0.9


@pytest.mark.horovod
@pytest.mark.timeout(300)
def test_horovodrun():
    check_two_ranks(reports(run(BIN / "horovodrun", "-np", "2", BIN / "python", "train.py")))


@pytest.mark.mpi
@pytest.mark.timeout(300)
def test_mpirun():
    check_two_ranks(reports(run(BIN / "mpirun", "-n", "2", BIN / "python", "train.py")))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_torchrun():
    check_two_ranks(reports(run(BIN / "torchrun", "--standalone", "--nproc-per-node", "2", "train.py")))


@pytest.mark.spark
@pytest.mark.horovod
@pytest.mark.timeout(300)
@pytest.mark.parametrize("script", ["on_horovod_spark.py", "on_barrier_launcher.py"])
def test_inside_spark(script):
    check_two_ranks(reports(run(BIN / "python", script, activated=False)))


@pytest.mark.spark
@pytest.mark.horovod
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workers", "0"], "a whole number from 1 is needed"),
        (
            ["--workers", "5", "--master", "local[2]"],
            "mnist.py: 5 ranks were asked for, but only 2 tasks can run at once",
        ),
    ],
)
def test_a_demo_that_cannot_be_is_refused_in_a_line(arguments, words, tmp_path):
    command = [BIN / "python", EXAMPLES / "mnist.py", "--output", tmp_path / "run", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, cwd=tmp_path)
    assert done.returncode != 0
    assert words in done.stderr.splitlines()[-1]


@pytest.mark.spark
@pytest.mark.horovod
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_demo(tmp_path):
    printed = run(BIN / "python", "mnist.py", "--output", tmp_path / "run", timeout=280, activated=False)
    accuracy = float(re.search(r"^test accuracy +(0\.\d{4})$", printed, re.MULTILINE).group(1))
    assert accuracy >= 0.93
    for name in ("loss", "validation loss", "bytes sent by a rank", "dense would be", "seconds", "model", "report"):
        assert re.search(rf"^{name}  +\S", printed, re.MULTILINE), f"no line {name!r} in\n{printed}"
    assert (tmp_path / "run" / "model" / "model.safetensors").stat().st_size > 4 * 1_860_000
    assert "<table>" in (tmp_path / "run" / "report.html").read_text()
    assert not list((tmp_path / "run").glob("staged-*"))
