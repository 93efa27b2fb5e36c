"""Importing the packages is quick and loads nothing heavy."""

import json
import subprocess
import sys

import pytest

PROBE = """
import json, sys, time
begin = time.perf_counter()
import {package}
elapsed = time.perf_counter() - begin
heavy = [m for m in ("torch", "pyspark", "horovod", "mpi4py", "numba", "pyarrow", "pydantic") if m in sys.modules]
print(json.dumps([elapsed, heavy]))
"""


@pytest.mark.parametrize("package", ["hvdspark", "hvdspark_launch", "hvdspark.errors"])
def test_import_is_light(package):
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(package=package)], capture_output=True, text=True, check=True
    )
    elapsed, heavy = json.loads(done.stdout)
    assert heavy == []
    assert elapsed < 0.25, f"import {package} took {elapsed:.2f} s"
