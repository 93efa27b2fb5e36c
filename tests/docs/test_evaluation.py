"""Each section of docs/evaluation.md runs as it stands there, in an empty folder."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "evaluation.md"
SECTIONS = re.findall(r"^## (.+?)\n.*?```python\n(.*?)```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def test_every_section_has_a_program():
    assert [title for title, _ in SECTIONS] == re.findall(r"^## (.+)$", PAGE.read_text(), re.MULTILINE)


@pytest.mark.parametrize(("title", "program"), SECTIONS, ids=[title for title, _ in SECTIONS])
def test_section(title, program, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(program, f"evaluation.md, {title}", "exec"), {"__name__": "__main__"})
