"""The program of docs/stats.md runs as it stands there, in an empty folder."""

import json
import re
from pathlib import Path

import pytest

from contracts.pages import programs, public, run, text_of
from contracts.table import make_network, make_rows


@pytest.mark.spark
@pytest.mark.horovod
@pytest.mark.timeout(300)
def test_the_program_runs(spark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (program,) = programs("stats.md")
    rows = spark.createDataFrame(make_rows(100), "id int, features array<float>, label int").coalesce(1)
    names = run(program, "stats.md", **public(), spark=spark, network=make_network(), train=rows)
    assert "Where the time went" in Path("report.html").read_text()
    assert json.loads(Path("trace.json").read_text())["traceEvents"]
    told = {line.phase for line in names["result"].stats.phases}
    lines = " ".join(re.findall(r"^\| (`.*?) \|", text_of("stats.md"), re.MULTILINE))
    assert told <= set(re.findall(r"`([a-z_ ]+)`", lines)), "the page describes every phase"
