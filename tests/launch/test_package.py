"""The package's own surface: light to import, complete, sorted."""

import subprocess
import sys

import pytest

import hvdspark_launch

HEAVY = ("pyspark", "horovod", "torch", "psutil", "cloudpickle", "pyarrow", "numpy", "hvdspark")


def loaded_after(code):
    code = f"import sys\n{code}\nprint(*sorted(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    return done.stdout.split()


def test_importing_loads_nothing_heavy():
    assert loaded_after("import hvdspark_launch") == []


def test_even_all_public_names_load_nothing_heavy():
    assert loaded_after("from hvdspark_launch import *") == []


def test_public_names_are_sorted_and_there():
    assert hvdspark_launch.__all__ == sorted(hvdspark_launch.__all__)
    assert set(hvdspark_launch.__all__) <= set(dir(hvdspark_launch))
    for name in hvdspark_launch.__all__:
        assert getattr(hvdspark_launch, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'Nope'"):
        hvdspark_launch.Nope  # noqa: B018
