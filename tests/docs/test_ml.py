"""Each section of docs/ml.md runs as it stands there, but for the folders that it writes to."""

import gc

import pytest

from contracts.pages import run, sections
from hvdspark import Network

SECTIONS = sections("ml.md")


@pytest.mark.spark
@pytest.mark.horovod
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool:ResourceWarning")  # pyspark's searches
@pytest.mark.parametrize(("title", "program"), SECTIONS, ids=[title for title, _ in SECTIONS])
def test_section(title, program, spark, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Network, "known", [])
    for name in ("pipeline", "estimator"):  # to Spark a path is one in the folder where the JVM was started
        program = program.replace(f'"{name}"', repr(str(tmp_path / name)))
    run(program, f"ml.md, {title}", spark=spark)
    gc.collect()  # the pool that pyspark leaves open, while its warning is ignored
