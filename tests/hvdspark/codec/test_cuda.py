"""The whole path of ``Encoder(device="cuda")`` in Numba's simulator, and what is said where there is no GPU."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hvdspark.codec import Encoder
from hvdspark.errors import UnsupportedError


@pytest.mark.exhaustive
@pytest.mark.timeout(150)
def test_an_encoder_on_a_simulated_gpu_writes_the_same_bytes():
    cases = Path(__file__).parent / "cuda_cases.py"
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run([sys.executable, cases], env=environment, capture_output=True, text=True, timeout=140)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.split()[-1] == "done"


def test_without_a_gpu_the_device_is_refused():
    from numba import cuda

    if cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UnsupportedError, match=r"no NVIDIA GPU|needs numba-cuda"):
        Encoder(10, format="dense", device="cuda")
