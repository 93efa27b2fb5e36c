"""The tutorial runs from its first program to its last, in an empty folder."""

import contextlib
import io
import re

import pytest

from contracts.pages import programs, run, text_of

*LESSONS, ON_A_CLUSTER = programs("tutorial.md")


@pytest.mark.spark
@pytest.mark.horovod
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_tutorial(spark, tmp_path, monkeypatch):
    """In the session that is there: getOrCreate returns it."""
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        names = run("".join(LESSONS), "tutorial.md")
    assert names["evaluation"].accuracy > 0.9
    assert names["result"].bytes_sent * 10 < names["result"].dense_bytes
    told = re.search(r"^```text\n(epochs .*?)```", text_of("tutorial.md"), re.DOTALL | re.MULTILINE).group(1)
    for name in re.findall(r"^(\S+(?: \S+)*)  ", told, re.MULTILINE):
        assert re.search(rf"^{name}  ", printed.getvalue(), re.MULTILINE), f"the fit printed no line {name!r}"
    assert (tmp_path / "report.html").exists()

    names["table"].write.parquet(f"file://{tmp_path}/digits.parquet")
    arguments = [f"file://{tmp_path}/digits.parquet", str(tmp_path / "run"), "2"]
    monkeypatch.setattr("sys.argv", ["digits.py", *arguments])
    names = run(ON_A_CLUSTER.replace("epochs=6", "epochs=1"), "tutorial.md, digits.py")
    assert 0 < names["result"].score < 2.3  # that of guessing
    assert (tmp_path / "run" / "network" / "model.safetensors").exists()
