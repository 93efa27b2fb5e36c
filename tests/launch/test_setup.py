"""launch/setup: it says what a machine lacks before it downloads anything, and what it keeps works in any checkout."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "cat", "cut", "dirname", "env", "grep", "sed", "sha256sum", "tr", "uname")


def run_setup(folder, path, **variables):
    """Run a copy of launch/setup with nothing on the PATH but what stands in `path`."""
    shutil.copytree(ROOT / "launch", folder / "launch", ignore=shutil.ignore_patterns("hvdspark_launch"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    environment = {"PATH": str(path), "HOME": str(folder), **variables}
    return subprocess.run([folder / "launch/setup"], env=environment, capture_output=True, text=True, timeout=50)


def folder_of(tools, folder):
    folder.mkdir()
    for tool in tools:
        (folder / tool).symlink_to(shutil.which(tool))
    return folder


def test_what_is_missing_is_said_with_the_line_that_installs_it(tmp_path):
    done = run_setup(tmp_path, folder_of(TOOLS, tmp_path / "bin"), HVDSPARK_PYTHON=sys.executable)
    assert done.returncode == 1
    for thing, line in (
        ("a C++17 compiler", "apt-get install g++"),
        ("make", "apt-get install make"),
        ("Java 17 or later, for Spark (found: none)", "apt-get install openjdk-17-jre-headless"),
    ):
        assert f"- {thing}" in done.stderr
        assert line in done.stderr
    assert "nothing was downloaded or changed" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bin", "launch", "pyproject.toml"]


def test_a_machine_without_python_or_with_an_old_java_is_told_so(tmp_path):
    path = folder_of((*TOOLS, "c++", "make"), tmp_path / "bin")
    (path / "java").write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    (path / "java").chmod(0o755)
    done = run_setup(tmp_path, path)
    assert done.returncode == 1
    assert "- Python 3.11 or later" in done.stderr
    assert "Java 17 or later, for Spark (found: 11)" in done.stderr
    assert "C++" not in done.stderr


@pytest.mark.slow
def test_a_kept_horovod_finds_the_mpi_of_the_environment_that_it_is_installed_into(tmp_path):
    """The wheel is built in one checkout and taken by others: it must not look where it was built."""
    source = Path(importlib.util.find_spec("horovod").origin).parent
    mpi = Path(sys.prefix) / "lib" / "libmpi.so.40"
    if not mpi.exists():
        pytest.skip("this environment takes the system's MPI")
    lib = tmp_path / "lib"
    copied = lib / source.relative_to(Path(sys.prefix) / "lib")
    shutil.copytree(source / "torch", copied / "torch")
    shutil.copy(mpi, lib)
    (extension,) = (copied / "torch").glob("mpi_lib_v2*.so")
    environment = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}
    done = subprocess.run(["ldd", extension], env=environment, capture_output=True, text=True, check=True, timeout=30)
    (found,) = (line.split()[2] for line in done.stdout.splitlines() if "libmpi.so" in line)
    assert Path(found).resolve() == (lib / mpi.name).resolve()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["-O3", "-std=c++11", "a b.cc"], ["-O3", "-std=c++20", "a b.cc"]),
        (["-std=gnu++14", "-c", "x.cc"], ["-std=c++20", "-c", "x.cc"]),
        (["-std=c++17", "x.cc"], ["-std=c++17", "x.cc"]),
        (["-shared", "x.o", "-std=c++14"], ["-Wl,-rpath,$ORIGIN/..", "-shared", "x.o", "-std=c++20"]),
    ],
)
def test_the_compiler_wrapper_changes_the_standard_and_where_libraries_look(tmp_path, given, expected):
    compiler = tmp_path / "compiler"
    compiler.write_text('#!/bin/sh\nfor argument; do echo "$argument"; done\n')
    compiler.chmod(0o755)
    variables = {
        "HVDSPARK_CXX": str(compiler),
        "HVDSPARK_CXX_STANDARD": "20",
        "HVDSPARK_CXX_RPATH": "$ORIGIN/..",
    }
    done = subprocess.run(
        [ROOT / "launch/horovod-cxx", *given],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        check=True,
        timeout=10,
    )
    assert done.stdout.splitlines() == expected
