"""Ranks as real processes: started by horovodrun, mpirun or torchrun, under a hard time limit, none left behind."""

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import psutil
import pytest

BIN = Path(sys.executable).parent
STARTER = Path(__file__).with_name("variables.py")
MARK = "HVDSPARK_TEST_RUN"


def launched(launcher, size, script, *arguments, limit_s=180, **variables):
    """Run a script on `size` ranks; return exit code and all output. No process outlives this call.

    `launcher` is "gloo" (horovodrun), "mpi" (mpirun), "torch" (torchrun), "variables" (those of torchrun, and nothing
    that watches: the survivors of a failed rank end by themselves) or "none".
    """
    command = {
        "gloo": [BIN / "horovodrun", "-np", str(size), "--gloo"],
        "mpi": [BIN / "mpirun", "--oversubscribe", "-n", str(size)],
        "torch": [BIN / "torchrun", "--standalone", "--no-python", "--nproc-per-node", str(size)],
        "variables": [STARTER, str(size)],
        "none": [],
    }[launcher]
    if command and not command[0].exists():
        pytest.skip(f"{command[0].name} is not installed in this environment")
    if launcher == "variables":
        command.insert(0, sys.executable)
    mark = uuid.uuid4().hex
    env = {
        **os.environ,
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "OMP_NUM_THREADS": "1",  # ranks share few cores here
        MARK: mark,
        **variables,
    }
    process = subprocess.Popen(
        [*command, sys.executable, script, *arguments],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        output, _ = process.communicate(timeout=20)
        pytest.fail(f"{script} {arguments} took more than {limit_s} s:\n{output}")
    finally:
        left = left_behind(mark)
        for orphan in left:
            orphan.kill()
    assert not left, f"left behind: {left}\n{output}"
    return process.returncode, output


def left_behind(mark, grace_s=3.0):
    """Find processes that carry this run's mark and are still there after a grace period."""
    deadline = time.monotonic() + grace_s
    while (found := [process for process in psutil.process_iter() if _carries(process, mark)]) and (
        time.monotonic() < deadline
    ):
        time.sleep(0.1)
    return found


def _carries(process, mark):
    try:
        return process.environ().get(MARK) == mark and process.status() != psutil.STATUS_ZOMBIE
    except (psutil.Error, OSError):  # it ended meanwhile, or is not ours to look into
        return False


def result(output):
    """Read the one line ``RESULT {json}`` that rank 0 printed."""
    lines = [line for line in output.splitlines() if "RESULT " in line]
    assert len(lines) == 1, output
    return json.loads(lines[0].partition("RESULT ")[2])
