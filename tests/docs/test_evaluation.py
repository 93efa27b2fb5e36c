"""Each section of docs/evaluation.md runs as it stands there, in an empty folder."""

import pytest

from contracts.pages import run, sections

SECTIONS = sections("evaluation.md")
HERE = [each for each in SECTIONS if "pyspark" not in each[1]]
ON_SPARK = [each for each in SECTIONS if "pyspark" in each[1]]


@pytest.mark.spark
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("title", "program"), ON_SPARK, ids=[title for title, _ in ON_SPARK])
def test_section_on_spark(spark, title, program, tmp_path, monkeypatch):
    """In the session that is there: getOrCreate returns it."""
    monkeypatch.chdir(tmp_path)
    run(program, f"evaluation.md, {title}")


@pytest.mark.parametrize(("title", "program"), HERE, ids=[title for title, _ in HERE])
def test_section(title, program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(program, f"evaluation.md, {title}")
