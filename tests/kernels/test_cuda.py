"""The CUDA kernels in Numba's simulator, which must be asked for before Numba is imported: in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.exhaustive
@pytest.mark.timeout(240)
def test_simulated_kernels_equal_the_reference():
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    cases = Path(__file__).parent / "cuda_cases.py"
    command = [sys.executable, "-W", "ignore", str(cases)]  # NumPy warns of overflow in every simulated thread
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=230)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split()[-1] == "done"
    assert int(done.stdout.split()[-2]) >= 300
