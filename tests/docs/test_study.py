"""The study of loss per byte, by the command that docs/benchmarks.md names, with every kind of arm and few steps."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

STUDY = Path(__file__).parents[2] / "docs" / "benchmarks" / "study"
KINDS = ["dense", "fp16", "powersgd 2", "post-local 8", "top-k 1e-2 masked", "codes", "local 10 codes 1e-2"]
UNTRAINED = {"lm": math.log(256), "terrain": 0.9}  # about what a network says that knows nothing


def study(*arguments):
    """Run the command; return what it printed, and what it told of its runs."""
    command = [sys.executable, STUDY, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout, done.stderr


def run(results, workload, *arguments, hidden=32):
    """Train with tiny settings."""
    tiny = ["--hidden", hidden, "--ranks", 2, "--batch", 32, "--rates", 0.1]
    return study("run", "--results", results, "--workload", workload, *tiny, *arguments)[1]


def records(results, workload):
    """Read the raw numbers, by arm and seed."""
    lines = (results / f"{workload}.jsonl").read_text().splitlines()
    return {(line["arm"], line["seed"]): line for line in map(json.loads, lines)}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_study(tmp_path):
    results = tmp_path / "results"
    run(results, "lm", "--steps", 40, "--seeds", 1, "--arms", *KINDS)
    run(results, "terrain", "--steps", 40, "--seeds", 1, "--arms", "dense", "codes")
    found = records(results, "lm")
    assert set(found) == {(arm, 0) for arm in KINDS}
    for (arm, _), line in found.items():
        assert not line["diverged"], arm
        assert [point[0] for point in line["points"]][-1] == 40
        assert line["loss"] == line["points"][-1][1]
        bytes_so_far = [point[2:] for point in line["points"]]
        assert bytes_so_far == sorted(bytes_so_far)
    parameters = found["dense", 0]["setting"]["parameters"]
    assert parameters == 4352 + 417 * 32
    _, _, sent, wire = found["dense", 0]["points"][-1]
    assert 4 * parameters * 40 <= sent <= 4 * parameters * 40 * 1.01  # announcements come on top
    assert sent == pytest.approx(wire)  # what a ring of two carries
    assert len(found["dense", 0]["points"]) == 10
    # torch's hook reduces dense gradients at first, and so does dense: ten steps that agree but for the order of sums
    assert found["powersgd 2", 0]["points"][1][:2] == pytest.approx(found["dense", 0]["points"][1][:2], rel=1e-4)
    assert found["top-k 1e-2 masked", 0]["points"][-1][2] == 40 * (8 * round(0.01 * parameters) + 32)
    for workload, untrained in UNTRAINED.items():
        assert records(results, workload)["dense", 0]["loss"] < 0.9 * untrained, workload

    with (results / "terrain.jsonl").open("a") as file:
        file.write('{"setting": {"workload": "terr')  # a line that was broken off
    told = run(results, "terrain", "--steps", 40, "--seeds", 2, "--arms", "dense")
    assert "seed 0" not in told, "what was run is not run again"
    assert "seed 1" in told
    table, _ = study("report", "--results", results, "--plots", tmp_path / "plots")
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in table.splitlines() if line.startswith("| ")}
    assert set(rows) == {"arm", *KINDS}
    assert table.count("Two standard deviations of the dense seeds") == 1
    assert len(list((tmp_path / "plots").glob("*.svg"))) == 2


@pytest.mark.slow
def test_rates_are_searched(tmp_path):
    told = study(
        "run", "--results", tmp_path, "--workload", "terrain", "--hidden", 8, "--ranks", 2, "--steps", 2,
        "--num-rates", 4, "--arms", "dense", "codes", "--seeds", 1, "--shard", "1/2",
    )[1]  # fmt: skip
    lines = list(map(json.loads, (tmp_path / "terrain.jsonl").read_text().splitlines()))
    assert told.count("codes, rate") == len(lines) == 5
    assert {line["arm"] for line in lines} == {"codes"}, "the other part of the work has the other arm"
    rates = sorted(line["rate"] for line in lines if line["seed"] >= 1000)
    assert [rates[i + 1] / rates[i] for i in range(3)] == [2.0] * 3
    assert [line["rate"] in rates for line in lines if line["seed"] == 0] == [True]
