"""The program of docs/stopping.md runs as it stands there, in an empty folder."""

import re
from pathlib import Path

import pytest

import hvdspark
from contracts.table import make_master, make_network, make_rows

PAGE = Path(__file__).parents[2] / "docs" / "stopping.md"
(PROGRAM,) = re.findall(r"^```python\n(.*?)```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.mark.spark
@pytest.mark.horovod
@pytest.mark.timeout(240)
def test_the_program_runs(spark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    public = {name: getattr(hvdspark, name) for name in hvdspark.__all__}
    few = spark.createDataFrame(make_rows(64), "id int, features array<float>, label int").coalesce(1)
    known = {**public, "spark": spark, "network": make_network(), "master": make_master(), "train": few, "test": few}
    exec(compile(PROGRAM, PAGE.name, "exec"), known)
    result = known["result"]
    scores = [record["validation_score"] for record in result.history]
    assert len(scores) == 20 or result.stop_reason
    assert scores[result.best_epoch] <= min(scores) + 1e-4  # min_delta
