"""Each section of docs/data.md runs as it stands there, in an empty folder."""

import pytest

from contracts.pages import run, sections

SECTIONS = sections("data.md")


@pytest.mark.spark
@pytest.mark.horovod
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("title", "program"), SECTIONS, ids=[title for title, _ in SECTIONS])
def test_section(title, program, spark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(program, f"data.md, {title}", spark=spark)
