"""The program of docs/stats.md runs as it stands there, in an empty folder."""

import json
import re
from pathlib import Path

import pytest

import hvdspark
from contracts.table import make_network, make_rows

PAGE = Path(__file__).parents[2] / "docs" / "stats.md"
PROGRAMS = re.findall(r"^```python\n(.*?)```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.spark
@pytest.mark.horovod
@pytest.mark.timeout(240)
def test_the_program_runs(spark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (program,) = PROGRAMS
    rows = spark.createDataFrame(make_rows(100), "id int, features array<float>, label int").coalesce(1)
    public = {name: getattr(hvdspark, name) for name in hvdspark.__all__}
    known = {**public, "spark": spark, "network": make_network(), "train": rows}
    exec(compile(program, PAGE.name, "exec"), known)
    assert "Where the time went" in Path("report.html").read_text()
    assert json.loads(Path("trace.json").read_text())["traceEvents"]
    told = {line.phase for line in known["result"].stats.phases}
    described = set(re.findall(r"`([a-z_ ]+)`", " ".join(re.findall(r"^\| (`.*?) \|", PAGE.read_text(), re.MULTILINE))))
    assert told <= described, "the page describes every phase"
