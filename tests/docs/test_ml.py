"""Each section of docs/ml.md runs as it stands there, in an empty folder."""

import gc
import re
from pathlib import Path

import pytest

from hvdspark import Network

PAGE = Path(__file__).parents[2] / "docs" / "ml.md"
SECTIONS = re.findall(r"^## (.+?)\n.*?```python\n(.*?)```", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def test_every_section_has_a_program():
    assert [title for title, _ in SECTIONS] == re.findall(r"^## (.+)$", PAGE.read_text(), re.MULTILINE)


@pytest.mark.spark
@pytest.mark.horovod
@pytest.mark.timeout(120)
@pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool:ResourceWarning")  # pyspark's searches
@pytest.mark.parametrize(("title", "program"), SECTIONS, ids=[title for title, _ in SECTIONS])
def test_section(title, program, spark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Network, "known", [])
    for name in ("pipeline", "estimator"):  # to Spark a path is one in the folder where the JVM was started
        program = program.replace(f'"{name}"', repr(str(tmp_path / name)))
    exec(compile(program, f"ml.md, {title}", "exec"), {"__name__": "__main__", "spark": spark})
    gc.collect()  # the pool that pyspark leaves open, while its warning is ignored
