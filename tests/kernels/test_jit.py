"""Compiled kernels are kept for the next process: in a folder that is the user's alone, and never when stale."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import hvdspark_kernels
from hvdspark_kernels.cache import cache_directory

ENCODE = """
import numpy as np
from hvdspark_kernels.threshold import cpu
one = np.ones(1, np.float32)
codes, counts = np.zeros(100, np.int32), np.zeros(1, np.int64)
ones = np.ones(100, np.float32)
assert cpu.encode(ones.copy(), ones, np.array([100]), one, one, codes, counts) == (100, -1)
stats = cpu._encode_range.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def hits_and_misses(cache, **more):
    environment = {**os.environ, "HVDSPARK_KERNEL_CACHE": str(cache), **more}
    done = subprocess.run(
        [sys.executable, "-c", ENCODE], env=environment, capture_output=True, text=True, timeout=50, check=True
    )
    return tuple(map(int, done.stdout.split()))


def test_a_second_process_compiles_nothing(tmp_path):
    assert hits_and_misses(tmp_path) == (0, 1)
    assert hits_and_misses(tmp_path) == (1, 0)


def test_nothing_is_kept_where_nothing_can_be(tmp_path):
    assert hits_and_misses("") == (0, 1)
    (tmp_path / "file").write_text("in the way")
    assert hits_and_misses(tmp_path / "file") == (0, 1)
    assert (tmp_path / "file").read_text() == "in the way"


@pytest.fixture
def fresh(monkeypatch):
    cache_directory.cache_clear()
    yield lambda path: monkeypatch.setenv("HVDSPARK_KERNEL_CACHE", str(path))
    cache_directory.cache_clear()


def test_a_folder_that_others_may_write_to_is_not_used(fresh, tmp_path):
    fresh(tmp_path)
    directory = cache_directory()
    assert directory.stat().st_mode & 0o777 == 0o700
    cache_directory.cache_clear()
    directory.chmod(0o777)
    assert cache_directory() is None


def test_an_edit_of_any_source_makes_another_folder(fresh, tmp_path, monkeypatch):
    fresh(tmp_path)
    before = cache_directory()
    cache_directory.cache_clear()
    read = Path.read_bytes
    edited = Path(hvdspark_kernels.__file__).parent / "threshold" / "scalar.py"
    monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path == edited))
    assert cache_directory() not in (before, None)


DIFFERENCE = ENCODE.replace("cpu.encode(ones.copy(), ones,", "cpu.encode_difference(ones.copy(), 2 * ones, ones,")


def test_processes_that_start_together_do_not_get_each_others_code(tmp_path):
    """Numba alone gives both the same file name, now and then."""
    environment = {**os.environ, "HVDSPARK_KERNEL_CACHE": str(tmp_path)}
    for script in (ENCODE, DIFFERENCE):
        both = [subprocess.Popen([sys.executable, "-c", each], env=environment) for each in (ENCODE, DIFFERENCE)]
        assert [process.wait(50) for process in both] == [0, 0]
        done = subprocess.run([sys.executable, "-c", script], env=environment, timeout=50)
        assert done.returncode == 0
    (index,) = tmp_path.rglob("*cpu._encode_range*.nbi")
    assert len(list(index.parent.glob("cpu._encode_range*.nbc"))) == 2, "a file for each of the two"


def test_a_damaged_cache_is_said_and_does_not_stop_the_work(tmp_path):
    hits_and_misses(tmp_path)
    for index in tmp_path.rglob("*.nbi"):
        index.write_bytes(b"")
    environment = {**os.environ, "HVDSPARK_KERNEL_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", ENCODE], env=environment, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert "delete the folder" in done.stderr
