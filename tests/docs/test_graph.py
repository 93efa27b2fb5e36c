"""The programs of docs/graph.md run as they stand there, one behind the other."""

import pytest

from contracts.pages import programs, public, run


@pytest.mark.spark
@pytest.mark.horovod
@pytest.mark.timeout(300)
def test_the_programs_run(spark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = run("\n".join(programs("graph.md")), "graph.md", **public(), spark=spark)
    assert names["model"].output_names == ("kind", "price")
    assert names["kind"].class_names == ("hut", "house", "palace")
    assert names["kinds"].shape == (4, 3)
    assert names["prices"].shape == (4, 1)
