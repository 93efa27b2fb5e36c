"""The program of docs/reliability.md runs as it stands there, in an empty folder."""

import re
from pathlib import Path

import pytest

import hvdspark
from contracts.table import make_network, make_rows
from hvdspark.training import find_checkpoints

PAGE = Path(__file__).parents[2] / "docs" / "reliability.md"
PROGRAMS = re.findall(r"^```python\n(.*?)```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.spark
@pytest.mark.horovod
@pytest.mark.timeout(240)
def test_the_program_runs(spark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (program,) = PROGRAMS
    rows = spark.createDataFrame(make_rows(100), "id int, features array<float>, label int").coalesce(1)
    public = {name: getattr(hvdspark, name) for name in hvdspark.__all__}
    known = {**public, "spark": spark, "network": make_network(), "train": rows.sortWithinPartitions("id")}
    exec(compile(program, PAGE.name, "exec"), known)
    assert [found.epoch for found in find_checkpoints("runs/17")] == [8, 7]
