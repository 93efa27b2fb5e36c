"""The program of docs/reliability.md runs as it stands there, in an empty folder."""

import pytest

from contracts.pages import programs, public, run
from contracts.table import make_network, make_rows
from hvdspark.training import find_checkpoints


@pytest.mark.spark
@pytest.mark.horovod
@pytest.mark.timeout(300)
def test_the_program_runs(spark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (program,) = programs("reliability.md")
    rows = spark.createDataFrame(make_rows(100), "id int, features array<float>, label int").coalesce(1)
    train = rows.sortWithinPartitions("id")
    run(program, "reliability.md", **public(), spark=spark, network=make_network(), train=train)
    assert [found.epoch for found in find_checkpoints("runs/17")] == [8, 7]
