"""Every source on real Spark: each example once an epoch, and bad input as one error that names it."""

import numpy as np
import pytest

from hvdspark import DataSet, MultiDataSet, TensorColumn
from hvdspark.data import FileSource, RDDSource, Table, TableSource, plan_columns, plan_fields, stage, stage_apart
from hvdspark.data.batches import Batches
from hvdspark.data.manifest import Manifest
from hvdspark.data.plan import EpochPlan
from hvdspark.data.row_groups import StagedRowGroups
from hvdspark.errors import DataError

pytestmark = [pytest.mark.spark, pytest.mark.timeout(300)]

BATCH = 8
SIZES = (1, BATCH - 1, BATCH, BATCH + 1, 1000)


def ids_read(directory, case):
    """The ids of all rows that all ranks take in an epoch; a row's features and label are made from its id."""
    manifest = Manifest.read(directory)
    size, batch_size = case % 4 + 1, (BATCH, 3, 64)[case % 3]
    plan = EpochPlan(manifest.rows_per_group, size, batch_size, seed=case, epoch=case % 2)
    ids = []
    for rank in range(size):
        for batch in Batches(StagedRowGroups(directory, manifest), plan, rank):
            features = batch.features[0] if isinstance(batch.features, tuple) else batch.features
            labels = batch.labels[-1] if isinstance(batch.labels, tuple) else batch.labels
            assert features[:, 0].tolist() == [n / 2 for n in labels.tolist()]
            ids += [int(n) for n in labels.tolist()]
    return sorted(ids)


def sizes_of(case):
    """Sizes of objects, and partitions: each size alone, and seeded mixtures with empty objects between them."""
    if case < len(SIZES):
        return [SIZES[case]] * (1 if SIZES[case] == 1000 else case + 2), case + 1
    rng = np.random.default_rng(case)
    return [*(int(n) for n in rng.choice((0, *SIZES[:-1]), size=7)), 1], int(rng.integers(1, 10))


def arrays(start, count):
    ids = np.arange(start, start + count)
    return np.stack([ids / 2, ids * 0.0], 1), ids


def data_sets(case):
    sizes, _ = sizes_of(case)
    starts = np.cumsum([0, *sizes])
    return [DataSet(*arrays(start, count)) for start, count in zip(starts[:-1], sizes, strict=True)]


def rdd_of_data_sets(spark, case, _):
    return RDDSource(spark.sparkContext.parallelize(data_sets(case), sizes_of(case)[1]), spark)


def rdd_of_multi_data_sets(spark, case, _):
    objects = [MultiDataSet([d.features, d.features], [d.features, d.labels]) for d in data_sets(case)]
    return RDDSource(spark.sparkContext.parallelize(objects, sizes_of(case)[1]), spark)


def rdd_of_points(spark, case, _):
    from pyspark.ml.linalg import Vectors
    from pyspark.mllib.regression import LabeledPoint

    rows = [(float(y), x) for d in data_sets(case) for x, y in zip(d.features, d.labels, strict=True)]
    points = [LabeledPoint(y, x) if case % 2 else (y, Vectors.dense(x)) for y, x in rows]
    return RDDSource(spark.sparkContext.parallelize(points, sizes_of(case)[1]), spark, points="class")


def saved(case, folder):
    for number, data in enumerate(data_sets(case)):
        path = folder / f"{number:03d}.safetensors"
        (MultiDataSet.of(data) if number % 2 else data).save(path)
    return sorted(map(str, folder.iterdir()))


def files(spark, case, folder):
    return FileSource(spark, saved(case, folder), None, "the folder")


def rdd_of_paths(spark, case, folder):
    return RDDSource(spark.sparkContext.parallelize(saved(case, folder), sizes_of(case)[1]), spark)


def files_with_a_loader(spark, case, folder):
    paths = []
    for number, data in enumerate(data_sets(case)):
        paths.append(str(folder / f"{number}.npz"))
        np.savez(paths[-1], x=data.features, y=data.labels)

    def load(path):
        with np.load(path) as found:
            return DataSet(found["x"], found["y"])

    return FileSource(spark, paths, load, "the list of files")


def table(spark, case, _):
    sizes, partitions = sizes_of(case)
    frame = spark.range(sum(sizes), numPartitions=partitions).selectExpr("array(id / 2, 0) as features", "id as label")
    return TableSource(Table(frame, plan_columns(frame)))


def parquet(spark, case, folder):
    frame = table(spark, case, folder).table.frame
    frame.write.parquet(str(folder / "table"))
    again = spark.read.parquet(str(folder / "table"))
    return TableSource(Table(again, plan_columns(again)))


SOURCES = [
    rdd_of_data_sets,
    rdd_of_multi_data_sets,
    rdd_of_points,
    rdd_of_paths,
    files,
    files_with_a_loader,
    table,
    parquet,
]


@pytest.mark.parametrize("case", [pytest.param(n, marks=pytest.mark.slow if n > 3 else ()) for n in range(10)])
@pytest.mark.parametrize("make", SOURCES)
def test_each_example_comes_once(spark, tmp_path, make, case):
    (tmp_path / "in").mkdir()
    stage(make(spark, case, tmp_path / "in"), tmp_path / "out", rows_per_group=(1, 7, 256)[case % 3])
    assert ids_read(tmp_path / "out", case) == list(range(sum(sizes_of(case)[0])))


# ---- tables with more than features and a label --------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["id % 3 = 0", "rand() < 0.4", "id < 50"])
def test_rows_are_held_back_or_trained_on(spark, tmp_path, flag):
    frame = spark.range(101, numPartitions=4).selectExpr("id / 2 as features", "id as label", f"{flag} as held_back")
    source = TableSource(Table(frame, plan_columns(frame, validation_col="held_back")))
    stage_apart(source, tmp_path / "train", tmp_path / "validation")
    train, validation = ids_read(tmp_path / "train", 0), ids_read(tmp_path / "validation", 1)
    assert sorted(train + validation) == list(range(101))
    if "rand" not in flag:
        assert validation == [row.label for row in frame.where("held_back").sort("label").collect()]


@pytest.mark.parametrize(("flag", "words"), [("true", "never false: no row is left to train"), ("false", "never true")])
def test_nothing_held_back_or_everything(spark, tmp_path, flag, words):
    frame = spark.range(9).selectExpr("id as features", "id as label", f"{flag} as v")
    with pytest.raises(DataError, match=words):
        stage_apart(TableSource(Table(frame, plan_columns(frame, validation_col="v"))), tmp_path / "a", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_validation_column_with_nulls_or_of_another_type(spark, tmp_path):
    frame = spark.range(9).selectExpr("id as features", "id as label", "if(id = 4, null, id > 3) as v")
    with pytest.raises(DataError, match="'v' has nulls in 1 row"):
        stage_apart(TableSource(Table(frame, plan_columns(frame, validation_col="v"))), tmp_path / "a", tmp_path / "b")
    with pytest.raises(DataError, match="validation column 'label' is of type bigint, a boolean is needed"):
        plan_columns(frame, validation_col="label")


def test_several_inputs_outputs_masks_and_weights_of_a_table(spark, tmp_path):
    frame = spark.range(30, numPartitions=3).selectExpr(
        "transform(sequence(0, 1), i -> array(id + i, id, 0)) as grid",  # arrays in arrays
        "array(id, id + 1) as tokens",
        "array(id % 2 = 0, true) as mask",
        "encode(cast(id as string), 'utf-8') as picture",
        "cast(id as double) as x0",
        "id * 2 as x1",
        "id / 4 as w",
        "id as y",
    )
    plan = plan_fields(
        frame,
        feature_cols={
            "grid": "grid",
            "tokens": TensorColumn("tokens", dtype="int64"),
            "picture": TensorColumn("picture", decode=lambda data: np.full((1, 2), int(data), np.uint8)),
            "numbers": ["x0", "x1"],
        },
        label_cols=["y", TensorColumn("tokens", shape=(2, 1))],
        features_mask_cols={"tokens": "mask"},
        weight_col="w",
    )
    manifest = stage(TableSource(Table(frame, plan)), tmp_path / "out")
    assert [(f.key, f.dtype, f.shape, f.argument) for f in manifest.fields] == [
        ("feature_0", "float32", (2, 3), "grid"),
        ("feature_1", "int64", (2,), "tokens"),
        ("feature_2", "uint8", (1, 2), "picture"),
        ("feature_3", "float32", (2,), "numbers"),
        ("label_0", "int64", (), ""),
        ("label_1", "float32", (2, 1), ""),
        ("features_mask_1", "bool", (2,), "tokens"),
        ("weight_0", "float32", (), ""),
    ]
    epoch = EpochPlan(manifest.rows_per_group, 2, 4, seed=1, epoch=0)
    seen = []
    for batch in (
        batch for rank in range(2) for batch in Batches(StagedRowGroups(tmp_path / "out", manifest), epoch, rank)
    ):
        for row, n in enumerate(batch.labels[0].tolist()):
            assert batch.features["grid"][row].tolist() == [[n, n, 0], [n + 1, n, 0]]
            assert batch.features["tokens"][row].tolist() == [n, n + 1]
            assert batch.features["picture"][row].tolist() == [[n, n]]
            assert batch.features["numbers"][row].tolist() == [n, 2 * n]
            assert batch.labels[1][row].tolist() == [[n], [n + 1]]
            assert batch.features_mask["tokens"][row].tolist() == [n % 2 == 0, True]
            assert batch.weights[row].item() == n / 4
            seen.append(n)
    assert sorted(seen) == list(range(30))


@pytest.mark.parametrize(
    ("columns", "texts"),
    [
        ({"weight_col": "m"}, ["weight column 'm' is of type array<double>, a number is needed"]),
        ({"weight_col": "zz"}, ["weight column 'zz' is not there"]),
        (
            {"features_col": "bin"},
            ["'bin' is of type binary, a decode function is needed: TensorColumn("],
        ),
        ({"features_col": TensorColumn("m", decode=len)}, ["'m' is of type array<double>, and decode is for binary"]),
        ({"features_col": TensorColumn("m", dtype="int64")}, ["'m' holds floats, and int64 is asked for"]),
        ({"labels_mask_col": "bin"}, ["labels mask column 'bin' is of type binary"]),
    ],
)
def test_columns_that_cannot_serve(spark, columns, texts):
    frame = spark.createDataFrame([], "features array<float>, label int, m array<double>, bin binary")
    with pytest.raises(DataError) as caught:
        plan_columns(frame, **columns)
    for text in texts:
        assert text in str(caught.value)


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "columns", "texts"),
    [
        (
            "array(1, id) as f, id as y, array(1, id) as m",
            {"labels_mask_col": "m"},
            ["'m' has other numbers than 0"],
        ),
        ("id as f, id as y, id - 3 as w", {"weight_col": "w"}, ["'w' has negative weights in 3 rows", "0 or more"]),
        ("id as f, id as y, if(id = 1, null, 1.5d) as w", {"weight_col": "w"}, ["'w' has nulls in 1 row"]),
        (
            "array(array(1, 2), if(id = 4, array(1), array(1, 2))) as f, id as y",
            {},
            ["'f' has arrays of unequal width (2 and 1 values) in 1 row"],
        ),
        (
            "array(1, 2, id) as f, id as y",
            {"features_col": TensorColumn("f", shape=(2, 2))},
            ["'f' has arrays of unequal width (4 and 3 values) in 9 rows"],
        ),
        (
            "encode(if(id = 5, 'x', '1'), 'utf-8') as f, id as y",
            {"features_col": TensorColumn("f", decode=lambda data: [int(data)])},
            ["'f' could not be decoded in 1 row", "ValueError: invalid literal", "the first is row"],
        ),
        (
            "encode(cast(id as string), 'utf-8') as f, id as y",
            {"features_col": TensorColumn("f", decode=lambda data: [1.0] * (2 + (data > b"4")))},
            ["'f' has arrays of unequal width (2 and 3 values) in 4 rows"],
        ),
    ],
)
@pytest.mark.parametrize("partitions", [1, 9])
def test_bad_rows_of_tables(spark, tmp_path, rows, columns, texts, partitions):
    frame = spark.range(9, numPartitions=partitions).selectExpr(*_split(rows))
    plan = plan_columns(frame, **{"features_col": "f", "label_col": "y", **columns})
    with pytest.raises(DataError) as caught:
        stage(TableSource(Table(frame, plan)), tmp_path / "out")
    for text in texts:
        assert text in str(caught.value)
    assert "Py4J" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def _split(rows):
    """Cut a select list at the commas between its columns."""
    parts, depth = [""], 0
    for letter in rows:
        depth += {"(": 1, ")": -1}.get(letter, 0)
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def bad_data_set(case):
    x, y = arrays(0, 4)
    return {
        "nan": DataSet(np.where(np.arange(8).reshape(4, 2) == 5, np.nan, x), y),
        "wide": DataSet(np.ones((4, 3)), y),
        "unlabelled": DataSet(x),
        "masked": DataSet(x, y, np.ones((4, 2))),
        "foreign": {"x": 1},
    }[case]


@pytest.mark.parametrize(
    ("case", "texts"),
    [
        ("nan", ["array 'features' has NaN or infinity in 1 row (1 in partition", "row 2 of partition", "filter"]),
        ("wide", ["array 'features' has arrays of unequal width (2 and 3 values) in", "pad"]),
        ("unlabelled", ["4 rows without labels", "give every DataSet its labels"]),
        ("masked", ["some have 'features_mask' and others not", "give all examples the same"]),
        ("foreign", ["objects of another class in 1 row: dict is none of the known", "DataSet, MultiDataSet"]),
    ],
)
@pytest.mark.parametrize("partitions", [1, 2])
def test_bad_objects_of_rdds(spark, tmp_path, case, texts, partitions):
    objects = [DataSet(*arrays(0, 4)), bad_data_set(case)]
    if partitions == 1 and case == "nan":
        texts = [text.replace("row 2 of", "row 6 of") for text in texts]
    with pytest.raises(DataError) as caught:
        stage(RDDSource(spark.sparkContext.parallelize(objects, partitions), spark), tmp_path / "out")
    for text in texts:
        assert text in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_bad_files_are_named_with_file_and_row(spark, tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    DataSet(*arrays(0, 4)).save(folder / "0.safetensors")
    bad_data_set("nan").save(folder / "1.safetensors")
    damaged = folder / "2.safetensors"
    DataSet(*arrays(4, 4)).save(damaged)
    damaged.write_bytes(damaged.read_bytes()[:-8] + b"\xff" * 8)
    paths = [*sorted(map(str, folder.iterdir())), str(folder / "3.safetensors")]
    with pytest.raises(DataError) as caught:
        stage(FileSource(spark, paths, None, "the list of files"), tmp_path / "out")
    for text in (f"row 2 of {paths[1]}", "2 files could not be loaded", f"{damaged} has changed since it was saved"):
        assert text in str(caught.value)
    assert not (tmp_path / "out").exists()

    def loader(path):
        raise LookupError(f"no idea how to read {path}")

    with pytest.raises(DataError, match=r"4 files could not be loaded: no idea how to read .*0\.safetensors"):
        stage(FileSource(spark, paths, loader, "the list of files"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_sources_without_a_row(spark, tmp_path):
    empty = DataSet(np.ones((0, 2)), np.ones(0))
    empty.save(tmp_path / "e.safetensors")
    for source, name in (
        (RDDSource(spark.sparkContext.parallelize([], 2), spark), "the RDD"),
        (RDDSource(spark.sparkContext.parallelize([empty], 1), spark), "the RDD"),
        (FileSource(spark, [str(tmp_path / "e.safetensors")], None, "the file e"), "the file e"),
    ):
        with pytest.raises(DataError, match=f"{name} is empty: there is no row to train on"):
            stage(source, tmp_path / "out")
        assert not (tmp_path / "out").exists()
