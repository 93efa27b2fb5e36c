"""Normalisers fitted on Spark: what one pass of NumPy gives, over any partitions."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from hvdspark import NormalizerMinMaxScaler, NormalizerStandardize
from hvdspark.data import DataSet
from hvdspark.errors import DataError, StorageError, UnsupportedError

pytestmark = [pytest.mark.spark, pytest.mark.timeout(300)]

STANDARD = NormalizerStandardize()


def examples(n=203):
    random = np.random.default_rng(0)
    x = random.normal([0, 1e4, -3, 7], [1, 50, 1e-3, 0], (n, 4)).astype(np.float32)
    return x, random.normal(500, 30, n).astype(np.float32)


def frame(spark, partitions):
    x, y = examples()
    rows = [(row.tolist(), float(label)) for row, label in zip(x, y, strict=True)]
    return spark.createDataFrame(rows, "features array<float>, label float").repartition(partitions)


def check(fitted, normaliser=STANDARD):
    x, _ = examples()
    seen = fitted.feature_statistics
    assert seen.count.tolist() == [len(x)] * 4
    np.testing.assert_allclose(seen.mean, x.mean(axis=0, dtype=np.float64), rtol=1e-9)
    np.testing.assert_allclose(seen.variance, x.astype(np.float64).var(axis=0), rtol=1e-6, atol=1e-30)
    assert np.array_equal(seen.low, x.min(axis=0))
    assert np.array_equal(seen.high, x.max(axis=0))
    np.testing.assert_allclose(fitted.transform(x), normaliser.fit(x).transform(x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("partitions", [1, 3, 250])
def test_data_frames_over_any_partitions_empty_ones_too(spark, partitions):
    check(STANDARD.fit(frame(spark, partitions)))


def test_the_same_table_gives_the_same_bits(spark):
    table = frame(spark, 30)
    assert STANDARD.fit(table) == STANDARD.fit(table) == STANDARD.fit(table)


def test_labels_and_scalar_columns_of_data_frames(spark):
    x, y = examples()
    names = ["a.b", "c", "d", "e"]
    rows = [(*map(float, row), float(label)) for row, label in zip(x, y, strict=True)]
    table = spark.createDataFrame(rows, ", ".join(f"`{name}` double" for name in [*names, "target"])).repartition(5)
    fitted = NormalizerMinMaxScaler(fit_labels=True).fit(table, features_col=names, label_col="target")
    check(fitted, NormalizerMinMaxScaler())
    assert (fitted.label_statistics.low, fitted.label_statistics.high) == (y.min(), y.max())
    check(STANDARD.fit(table.drop("target"), features_col=names))


@pytest.mark.parametrize("sizes", [[203], [0, 1, 0, 200, 2, 0]])
@pytest.mark.parametrize("saved", [False, True])
def test_rdds_of_data_sets_or_of_their_paths(spark, tmp_path, sizes, saved):
    x, y = examples()
    edges = np.cumsum([0, *sizes])
    pieces = [DataSet(x[a:b], y[a:b]) for a, b in itertools.pairwise(edges)]
    if saved:
        for i, piece in enumerate(pieces):
            piece.save(tmp_path / f"{i}.safetensors")
        pieces = [str(tmp_path / f"{i}.safetensors") for i in range(len(pieces))]
        check(STANDARD.fit(pieces, spark=spark))
    for partitions in (2, len(pieces) + 20):
        fitted = NormalizerStandardize(fit_labels=True).fit(spark.sparkContext.parallelize(pieces, partitions))
        check(fitted)
        np.testing.assert_allclose(fitted.label_statistics.mean, y.mean(dtype=np.float64), rtol=1e-9)


@pytest.mark.parametrize(
    ("rows", "text"),
    [
        ([([1.0, float("nan")], 1.0), ([1.0, 2.0], 1.0)], "'features' has NaN or infinity in 1 row"),
        ([([1.0], 1.0), ([1.0, 2.0], 1.0)], r"unequal width|\[1\] and \[2\]"),
        ([([1.0], 1.0)][:0], "no example to fit on"),
    ],
)
def test_what_cannot_be_fitted_is_told_in_a_line(spark, rows, text):
    table = spark.createDataFrame(rows, "features array<double>, label double").repartition(2)
    with pytest.raises(DataError, match=text):
        STANDARD.fit(table)


def test_what_is_wrong_in_an_rdd_is_told_in_a_line(spark, tmp_path):
    parallelize = spark.sparkContext.parallelize
    with pytest.raises(StorageError, match=r"^cannot read .*gone"):
        STANDARD.fit(parallelize([str(tmp_path / "gone")]))
    with pytest.raises(UnsupportedError, match="not a int"):
        STANDARD.fit(parallelize([1]))
    with pytest.raises(DataError, match=r"\[2\] and \[3\]"):
        STANDARD.fit(parallelize([DataSet(np.ones((1, 2))), DataSet(np.ones((1, 3)))], 2))


CONNECT = """
import sys
import numpy as np
from pyspark.sql import SparkSession
from hvdspark import NormalizerStandardize
from hvdspark.data import DataSet, create_file_batches, list_paths, validate_data_sets

if __name__ == "__main__":
    spark = SparkSession.builder.remote("local[2]").getOrCreate()
    x = np.random.default_rng(0).normal(3, 2, size=(300, 6)).astype(np.float32)
    table = spark.createDataFrame([(row.tolist(),) for row in x], "features array<float>").repartition(5)
    found, expected = NormalizerStandardize().fit(table), NormalizerStandardize().fit(x)
    print("near", np.allclose(found.transform(x), expected.transform(x), atol=1e-6), flush=True)
    for i, piece in enumerate(DataSet(x, x).split(40)):
        piece.save(f"{sys.argv[1]}/{i}.safetensors")
    print("files", NormalizerStandardize().fit(sys.argv[1], spark=spark).feature_statistics.count[0], flush=True)
    print(validate_data_sets(sys.argv[1], spark=spark), flush=True)
    batches = create_file_batches(list_paths(sys.argv[1]), sys.argv[1] + "/out", 3, spark=spark)
    print("batches", len(batches), flush=True)
    spark.stop()
"""


@pytest.mark.slow
def test_under_connect(tmp_path):
    script, folder = tmp_path / "connect.py", tmp_path / "data"
    folder.mkdir()
    script.write_text(CONNECT)
    done = subprocess.run(
        [sys.executable, script, folder],
        env={**os.environ, "PYSPARK_PYTHON": sys.executable, "SPARK_TESTING": "1"},  # a free port, not always 15002
        capture_output=True,
        text=True,
        timeout=280,
        cwd=tmp_path,
    )
    for words in ("near True", "files 300", "8 files: 8 valid, 0 invalid", "batches 3"):
        assert words in done.stdout, done.stdout[-2000:] + done.stderr[-4000:]
