"""The programs of a page of docs/, which tests run as they stand there."""

import re
from pathlib import Path

import hvdspark

_DOCS = Path(__file__).parents[2] / "docs"


def text_of(page):
    return (_DOCS / page).read_text()


def programs(page):
    return re.findall(r"^```python\n(.*?)```", text_of(page), re.DOTALL | re.MULTILINE)


def sections(page):
    """The (title, program) of each section; every section has one."""
    found = re.findall(r"^## (.+?)\n.*?```python\n(.*?)```", text_of(page), re.DOTALL | re.MULTILINE)
    assert [title for title, _ in found] == re.findall(r"^## (.+)$", text_of(page), re.MULTILINE)
    return found


def run(program, name, **known):
    """Run a program; return its names."""
    names = {"__name__": "__main__", **known}
    exec(compile(program, name, "exec"), names)
    return names


def public():
    """All that hvdspark offers, by name: what a page takes as imported."""
    return {name: getattr(hvdspark, name) for name in hvdspark.__all__}
