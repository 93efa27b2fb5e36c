"""The site is built from docs/ without a warning, with an entry for every public name; a broken link would show."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
NOWHERE = """# Title

To [a page](missing.md), to [a heading](index.md#no-such-heading).

```{eval-rst}
.. autoclass:: hvdspark.NoSuchName
```
"""
PUBLIC = ["hvdspark", "hvdspark.codec", "hvdspark.errors", "hvdspark.ml", "hvdspark_launch"]


def build(source, out):
    """Build as CONTRIBUTING.md says; the configuration is that of docs/."""
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", DOCS, "-d", out / "read", source, out]
    return subprocess.run(command, capture_output=True, text=True, timeout=580)


@pytest.mark.slow
@pytest.mark.timeout(600)  # 27 s of CPU time; the rest is for busy machines
def test_site(tmp_path):
    from sphinx.util.inventory import InventoryFile

    done = build(DOCS, tmp_path)
    assert done.returncode == 0, done.stderr[-6000:]
    inventory = InventoryFile.loads((tmp_path / "objects.inv").read_bytes(), uri="").data
    entries = {name for kind, found in inventory.items() if kind.startswith("py:") for name in found}
    short = {name.rpartition(".")[2] for name in entries}
    for module in PUBLIC:
        names = set(importlib.import_module(module).__all__)
        assert names <= short, f"pages in docs/reference/ lack names of {module}: {sorted(names - short)}"


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_what_leads_nowhere_is_an_error(tmp_path):
    source = tmp_path / "docs"
    source.mkdir()
    (source / "index.md").write_text(NOWHERE)
    done = build(source, tmp_path / "site")
    assert done.returncode != 0
    for words in ("missing.md", "no-such-heading", "NoSuchName"):
        assert words in done.stderr
