"""Staging on real Spark: what is written is what was there, and bad rows are told as one error."""

import sys

import numpy as np
import pyarrow.parquet as pq
import pytest

from hvdspark.data import use_driver_python, workers_explained
from hvdspark.data.batches import Batches
from hvdspark.data.columns import ColumnReader, Table
from hvdspark.data.manifest import Manifest
from hvdspark.data.plan import EpochPlan
from hvdspark.data.row_groups import StagedRowGroups
from hvdspark.data.schema import plan_columns
from hvdspark.data.sources import TableSource
from hvdspark.data.stage import stage as stage_source
from hvdspark.errors import ConfigurationError, DataError, EnvironmentMismatch, StorageError

pytestmark = [pytest.mark.spark, pytest.mark.timeout(300)]


def stage(df, plan, directory, **options):
    return stage_source(TableSource(Table(df, plan)), directory, **options)


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def staged_rows(directory):
    """What a single rank reads in an epoch: features and label of each row, sorted."""
    manifest = Manifest.read(directory)
    plan = EpochPlan(manifest.rows_per_group, 1, 7, seed=1, epoch=0)
    rows = []
    for batch in Batches(StagedRowGroups(directory, manifest), plan, 0):
        labels = batch.labels.tolist()
        rows += zip(
            map(tuple, batch.features.tolist()), (tuple(x) if isinstance(x, list) else x for x in labels), strict=True
        )
    return sorted(rows)


def frame(spark, rows, schema, partitions=2):
    return spark.createDataFrame(rows, schema).repartition(partitions)


def vectors(n):
    from pyspark.ml.linalg import Vectors

    for i in range(n):
        yield Vectors.sparse(4, {1: i / 4, 3: -1.0}) if i % 2 else Vectors.dense([i, 0.5, i / 2, 2.0])


def numbers(vector):
    return tuple(float(x) for x in vector)


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        ("x array<float>, y int", lambda i: ([i / 2, 1.0, -float(i)], i % 3)),
        ("x array<double>, y bigint", lambda i: ([i / 2, 1.0, -float(i)], i % 3)),
        ("x array<int>, y float", lambda i: ([i, 1, -i], i / 4)),
        ("x double, y double", lambda i: (i / 8, i / 4)),
        ("x int, y boolean", lambda i: (i, i % 2 == 0)),
        ("x array<float>, y array<double>", lambda i: ([i / 2, 1.0], [i / 4, 0.0, 1.0])),
    ],
)
def test_staged_rows_are_the_rows_of_the_table(spark, tmp_path, schema, values):
    df = frame(spark, [values(i) for i in range(53)], schema, partitions=3)
    manifest = stage(df, plan_columns(df, features_col="x", label_col="y"), tmp_path / "out", rows_per_group=10)
    expected = []
    for row in df.collect():
        features = tuple(map(float, row.x)) if isinstance(row.x, list) else (float(row.x),)
        expected.append((features, tuple(row.y) if isinstance(row.y, list) else row.y))
    assert staged_rows(tmp_path / "out") == sorted(expected)
    assert manifest.num_rows == 53
    assert manifest == Manifest.read(tmp_path / "out")
    assert manifest.of("label")[0].dtype == (
        "int64" if schema.split()[-1] in ("int", "bigint", "boolean") else "float32"
    )
    for file in manifest.files:
        metadata = pq.read_metadata(tmp_path / "out" / file.name)
        groups = tuple(metadata.row_group(g).num_rows for g in range(metadata.num_row_groups))
        assert groups == file.rows_per_group
        assert set(groups[:-1]) <= {10}


def test_dense_and_sparse_vectors_become_the_same_matrix(spark, tmp_path):
    df = frame(spark, [(vector, float(i)) for i, vector in enumerate(vectors(21))], ["features", "label"])
    stage(df, plan_columns(df), tmp_path / "out")
    expected = [(numbers(row.features.toArray()), row.label) for row in df.collect()]
    assert staged_rows(tmp_path / "out") == sorted(expected)


def test_vector_labels(spark, tmp_path):
    df = frame(spark, [([float(i)], vector) for i, vector in enumerate(vectors(6))], ["features", "label"])
    manifest = stage(df, plan_columns(df), tmp_path / "out")
    assert [(field.shape, field.dtype) for field in manifest.of("label")] == [((4,), "float32")]
    assert staged_rows(tmp_path / "out") == sorted(
        (tuple(r.features), numbers(r.label.toArray())) for r in df.collect()
    )


def test_several_scalar_columns_in_the_order_given(spark, tmp_path):
    df = frame(spark, [(i, i / 2, i % 2 == 1, i % 3) for i in range(9)], "`a.b` int, c double, d boolean, label short")
    manifest = stage(df, plan_columns(df, features_col=["d", "a.b", "c"]), f"file://{tmp_path}/out")
    assert [field.name for field in manifest.of("feature")] == ["d, a.b, c"]
    assert staged_rows(tmp_path / "out") == sorted(((float(i % 2), float(i), i / 2), i % 3) for i in range(9))


def test_row_groups_fill_up_across_arrow_batches(spark, tmp_path):
    df = frame(spark, [([float(i)], i) for i in range(100)], "features array<float>, label int", partitions=1)
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", 7)
    try:
        manifest = stage(df, plan_columns(df), tmp_path / "out", rows_per_group=16)
    finally:
        spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")
    assert manifest.rows_per_group == (16,) * 6 + (4,)


def test_more_partitions_than_rows(spark, tmp_path):
    df = frame(spark, [([1.0, 2.0], 0), ([3.0, 4.0], 1)], "features array<float>, label int", partitions=9)
    manifest = stage(df, plan_columns(df), tmp_path / "out")
    assert manifest.num_rows == 2
    assert 1 <= len(manifest.files) <= 2
    assert staged_rows(tmp_path / "out") == [((1.0, 2.0), 0), ((3.0, 4.0), 1)]


def test_staging_twice_gives_the_same_files(spark, tmp_path):
    # A task that runs again replaces its file by the same bytes; so does a second job over the same table.
    df = frame(spark, [([float(i)], i) for i in range(40)], "features array<float>, label int").cache()
    one, two = (stage(df, plan_columns(df), tmp_path / name) for name in ("one", "two"))
    df.unpersist()
    assert one == two
    assert one.fingerprint == two.fingerprint


NAN, INF = float("nan"), float("inf")
ARRAYS = "features array<double>, label double"


@pytest.mark.parametrize(
    ("rows", "schema", "texts"),
    [
        ([([1.0], 1.0), (None, 1.0), (None, 2.0)], ARRAYS, ["'features' has nulls in 2 rows", "na.drop"]),
        ([([1.0, None], 1.0), ([1.0, 2.0], 2.0)], ARRAYS, ["'features' has nulls in 1 row "]),
        ([([1.0], None), ([2.0], 1.0)], ARRAYS, ["'label' has nulls in 1 row ", "na.drop"]),
        ([([1.0], NAN), ([2.0], 1.0), ([2.0], INF)], ARRAYS, ["'label' has NaN or infinity in 2 rows", "filter"]),
        ([([1.0, INF], 0.0), ([2.0, 1.0], 1.0)], ARRAYS, ["'features' has NaN or infinity in 1 row "]),
        ([([1e300], 0.0), ([2.0], 1.0)], ARRAYS, ["'features' has NaN or infinity in 1 row ", "float32"]),
        (
            [([1.0, 2.0], 1.0), ([1.0, 2.0, 3.0], 1.0)],
            ARRAYS,
            ["'features' has arrays of unequal width", "2 ", "3 ", "pad"],
        ),
        ([([], 1.0), ([], 1.0)], ARRAYS, ["'features' has empty arrays in 2 rows", "at least one value"]),
        (
            [([1.0], [1.0]), ([1.0], [1.0, 0.0])],
            "features array<float>, label array<float>",
            ["'label' has arrays of unequal"],
        ),
        ([(None, NAN)], ARRAYS, ["'features' has nulls in 1 row", "'label' has NaN or infinity in 1 row"]),
        ([], ARRAYS, ["the DataFrame is empty", "no row to train on"]),
    ],
)
@pytest.mark.parametrize("partitions", [1, 3])
def test_bad_rows_are_one_error_and_leave_nothing(spark, tmp_path, rows, schema, texts, partitions):
    df = frame(spark, rows, schema, partitions)
    with pytest.raises(DataError) as caught:
        stage(df, plan_columns(df), tmp_path / "out")
    for text in texts:
        assert text in str(caught.value)
    if rows:
        assert "in partition" in str(caught.value)
    assert "Py4J" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_bad_rows_are_counted_over_all_partitions_and_batches(spark, tmp_path):
    df = spark.range(1000, numPartitions=5).selectExpr(
        "array(cast(id as float)) as features", "if(id % 10 = 3, cast(null as int), 1) as label"
    )
    spark.conf.set("spark.sql.execution.arrow.maxRecordsPerBatch", 13)
    try:
        with pytest.raises(DataError) as caught:
            stage(df, plan_columns(df), tmp_path / "out")
    finally:
        spark.conf.unset("spark.sql.execution.arrow.maxRecordsPerBatch")
    assert (
        "nulls in 100 rows (20 in partition 0, 20 in partition 1, 20 in partition 2, the others in 2 more partitions"
        in str(caught.value)
    )
    assert "the first is row 3 of partition 0" in str(caught.value)


@pytest.mark.parametrize(("features", "label"), [(True, False), (False, True)])
def test_null_vectors_are_named(spark, tmp_path, features, label):
    from pyspark.ml.linalg import Vectors, VectorUDT
    from pyspark.sql.types import StructField, StructType

    schema = StructType([StructField("features", VectorUDT()), StructField("label", VectorUDT())])
    good = Vectors.dense([1.0, 2.0])
    df = frame(spark, [(good, good), (None if features else good, None if label else good)], schema)
    with pytest.raises(DataError, match=f"'{'features' if features else 'label'}' has nulls in 1 row "):
        stage(df, plan_columns(df), tmp_path / "out")


def test_widths_are_compared_across_partitions(spark, tmp_path):
    df = spark.range(4, numPartitions=2).selectExpr(
        "if(id < 2, array(1.0f, 2.0f), array(1.0f, 2.0f, 3.0f)) as features", "id as label"
    )
    with pytest.raises(DataError, match=r"\(2 and 3 values\) in 2 rows \(2 in partition 0, 3 in partition 1\)"):
        stage(df, plan_columns(df), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "texts"),
    [
        ({"features_col": "pixel"}, ["'pixel' is not there", "did you mean 'Pixels'?", "Pixels, digit, name"]),
        ({"label_col": "zzz"}, ["label column 'zzz' is not there", "Pixels, digit"]),
        ({"label_col": "name"}, ["'name' is of type string", "StringIndexer(inputCol='name', outputCol='name_index')"]),
        ({"features_col": "name"}, ["'name' is of type string", "StringIndexer", "OneHotEncoder"]),
        ({"features_col": ["digit", "name"]}, ["'name' is of type string", "StringIndexer"]),
        ({"features_col": ["digit", "Pixels"]}, ["'Pixels' is of type array<float>", "alone"]),
        ({"features_col": "price"}, ["'price' is of type decimal(10,2)", "cast('double')"]),
        ({"label_col": "price"}, ["'price' is of type decimal(10,2)", "cast('double')"]),
        ({"features_col": "words"}, ["'words' is of type array<string>"]),
        ({"label_col": "day"}, ["'day' is of type date"]),
    ],
)
def test_columns_that_cannot_serve_are_refused_from_the_schema(spark, options, texts):
    schema = "Pixels array<float>, digit int, name string, price decimal(10,2), words array<string>, day date"
    df = spark.createDataFrame([], schema)
    with pytest.raises(DataError) as caught:
        plan_columns(df, **{"features_col": "Pixels", "label_col": "digit", **options})
    for text in texts:
        assert text in str(caught.value)


def test_columns_that_name_nothing_or_one_twice_are_refused(spark):
    df = spark.createDataFrame([(1.0, 2.0, 1)], "a double, b double, label int")
    with pytest.raises(ConfigurationError, match="at least one column"):
        plan_columns(df, features_col=[])
    with pytest.raises(ConfigurationError, match="each once"):
        plan_columns(df, features_col=["a", "a"])
    with pytest.raises(DataError, match="'a' is there 2 times"):
        plan_columns(df.select("a", "a", "label"), features_col="a")
    with pytest.raises(DataError, match="no label column"):
        stage(df, plan_columns(df, features_col="a", label_col=None), "never made")


def test_directories(spark, tmp_path):
    df = frame(spark, [([1.0], 1)], "features array<float>, label int", partitions=1)
    plan = plan_columns(df)
    out = tmp_path / "out"
    out.mkdir(mode=0o700)
    (out / "part-00007.parquet").write_bytes(b"left by a run that was killed")
    stage(df, plan, out)
    assert names(out) == ["manifest.json", "part-00000.parquet"]
    assert out.stat().st_mode & 0o777 == 0o700
    with pytest.raises(StorageError, match="holds a staged data set already"):
        stage(df, plan, out)
    assert staged_rows(out) == [((1.0,), 1)]
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StorageError, match=r"not empty \(notes.txt is there\)"):
        stage(df, plan, tmp_path)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_failed_call_leaves_the_callers_own_folder_empty(spark, tmp_path):
    df = frame(spark, [([1.0], None)], "features array<float>, label int")
    with pytest.raises(DataError):
        stage(df, plan_columns(df), tmp_path)
    assert names(tmp_path) == []


def test_an_error_of_the_users_own_query_stays_theirs_and_leaves_nothing(spark, tmp_path):
    df = spark.range(10).selectExpr("array(float(id)) as features", "int(raise_error('their own text')) as label")
    with pytest.raises(Exception, match="their own text"):
        stage(df, plan_columns(df), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_made_is_named(spark, tmp_path):
    (tmp_path / "file").write_text("in the way")
    df = frame(spark, [([1.0], 1)], "features array<float>, label int")
    with pytest.raises(StorageError, match="file/out"):
        stage(df, plan_columns(df), tmp_path / "file" / "out")


def test_workers_of_a_local_master_run_the_drivers_python(spark):
    def executable(batches):
        import pyarrow as pa

        for _ in batches:
            yield pa.RecordBatch.from_pydict({"text": [sys.executable]})

    use_driver_python(spark)
    table = spark.range(1, numPartitions=1).mapInArrow(executable, "text string")
    assert [row.text for row in table.collect()] == [sys.executable]


def test_rows_per_group_is_checked(spark, tmp_path):
    df = frame(spark, [([1.0], 1)], "features array<float>, label int")
    with pytest.raises(ConfigurationError, match="rows_per_group"):
        stage(df, plan_columns(df), tmp_path / "out", rows_per_group=0)


def test_predictions_keep_the_tables_own_columns(spark):
    df = spark.createDataFrame([("a", [1.0, 2.0])], "name string, features array<double>")
    plan = plan_columns(df, label_col=None)
    (batch,) = df.select("*", *plan.select()).toArrow().to_batches()
    (features,) = ColumnReader(plan).read(batch).checked().arrays
    np.testing.assert_array_equal(features, np.array([[1.0, 2.0]], np.float32))
    assert features.dtype == np.float32
    assert batch.column("name").to_pylist() == ["a"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("ModuleNotFoundError: No module named 'hvdspark'", "hvdspark is not installed for the Python of the workers"),
        ("[PYTHON_VERSION_MISMATCH] Python in worker has different version", "the workers run another Python"),
    ],
)
def test_workers_that_cannot_run_us_are_told_in_a_sentence(text, words):
    with pytest.raises(EnvironmentMismatch, match=words), workers_explained():
        raise RuntimeError(f"Job aborted ... {text} ... and a page of Java")
    with pytest.raises(RuntimeError, match="its own"), workers_explained():
        raise RuntimeError("its own")
