"""The program of docs/stopping.md runs as it stands there, in an empty folder."""

import pytest

from contracts.pages import programs, public, run
from contracts.table import make_master, make_network, make_rows


@pytest.mark.spark
@pytest.mark.horovod
@pytest.mark.timeout(300)
def test_the_program_runs(spark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (program,) = programs("stopping.md")
    few = spark.createDataFrame(make_rows(64), "id int, features array<float>, label int").coalesce(1)
    known = {"spark": spark, "network": make_network(), "master": make_master(), "train": few, "test": few}
    result = run(program, "stopping.md", **public(), **known)["result"]
    scores = [record["validation_score"] for record in result.history]
    assert len(scores) == 20 or result.stop_reason
    assert scores[result.best_epoch] <= min(scores) + 1e-4  # min_delta
