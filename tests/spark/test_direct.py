"""Direct: each rank trains on a partition of its own, from every source, with real ranks on real Spark."""

import functools
import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from contracts.table import WIDTH, fit, make_master, make_network, make_rows
from contracts.tensors import bits
from hvdspark import (
    Checkpoint,
    DataSet,
    Network,
    ParameterAveragingTrainingMaster,
    SparkMultiLayer,
    TrainingHook,
    TrainingListener,
)
from hvdspark.data import DefaultRepartitioner, EqualRepartitioner, Repartitioner
from hvdspark.errors import ConfigurationError, DataError

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(300)]

SCHEMA = "id int, features array<float>, label int"


class Noting(TrainingListener):
    """Writes down the first feature of each row of each step: the number of the row."""

    def __init__(self, directory):
        self._directory = str(directory)

    def iteration_done(self, moment):
        line = [moment.epoch, moment.step, moment.batch.features[:, 0].int().tolist()]
        with (Path(self._directory) / f"rank-{moment.rank}").open("a") as file:
            file.write(json.dumps(line) + "\n")


def direct(tmp_path, **options):
    """A master whose ranks note what they see, on which no number of rows has an effect."""
    return make_master(rdd_training_approach="direct", listeners=(Noting(tmp_path),), **options)


def seen(tmp_path, epochs=1, ranks=2):
    """The numbers of the rows of each rank; each epoch has the same, in as many steps on all ranks."""
    found, steps = [], set()
    for rank in range(ranks):
        lines = [json.loads(line) for line in (tmp_path / f"rank-{rank}").read_text().splitlines()]
        rows = [sorted(row for each, _, some in lines if each == epoch for row in some) for epoch in range(epochs)]
        assert all(each == rows[0] for each in rows)
        found.append(rows[0])
        steps.add(len(lines))
    assert len(steps) == 1
    return found


def once(tmp_path, count, epochs=1):
    rows = seen(tmp_path, epochs)
    assert sorted(row for each in rows for row in each) == list(range(count))
    return [len(each) for each in rows]


def numbered(count, start=0):
    x = np.ones((count, WIDTH), np.float32)
    x[:, 0] = np.arange(start, start + count)
    return DataSet(x, np.arange(count) % 3)


def still():
    """A network that no step changes, of one layer: rows may come one by one."""
    module = torch.nn.Linear(WIDTH, 3)
    return Network(module, torch.nn.CrossEntropyLoss(), functools.partial(torch.optim.SGD, lr=0.0))


def frame_of(spark, count, partitions):
    rows = [(row.tolist(), int(label)) for row, label in zip(numbered(count).features, numbered(count).labels)]  # noqa: B905
    return spark.createDataFrame(spark.sparkContext.parallelize(rows, partitions), "features array<float>, label int")


def test_a_table_on_both_masters_and_no_file_is_left(spark, tmp_path):
    frame, run = frame_of(spark, 101, 3), tmp_path / "run"
    model = SparkMultiLayer(spark, make_network(), direct(tmp_path, storage_level="MEMORY_AND_DISK"))
    result = model.fit(frame, epochs=2, run_directory=str(run))
    once(tmp_path, 101, epochs=2)
    assert len(result.history) == 2
    assert not list(run.glob("staged*"))
    assert not spark.sparkContext._jsc.getPersistentRDDs()
    for file in tmp_path.glob("rank-*"):
        file.unlink()
    averaging = ParameterAveragingTrainingMaster(
        num_workers=2, rdd_training_approach="direct", listeners=(Noting(tmp_path),), rng_seed=5
    )
    fit(spark, frame, make_network(), averaging, epochs=2)
    once(tmp_path, 101, epochs=2)


def test_it_learns_what_export_learns(spark):
    frame = spark.createDataFrame(make_rows(), SCHEMA).repartition(3)
    scores = [
        fit(spark, frame, make_network(), make_master(exchange="dense", rdd_training_approach=way), epochs=8).score
        for way in ("export", "direct")
    ]
    assert scores[1] == pytest.approx(scores[0], rel=0.25)
    assert scores[1] < 0.6


def test_an_rdd_of_data_sets_of_all_sizes(spark, tmp_path):
    sizes, start, data = (1, 15, 16, 17, 1000), 0, []
    for size in sizes:
        data.append(numbered(size, start))
        start += size
    rdd = spark.sparkContext.parallelize(data, 3)
    fit(spark, rdd, still(), direct(tmp_path))
    assert once(tmp_path, start) == [1 + 15 + 16, 17 + 1000]  # objects are counted, and the first ones come first


def test_an_empty_partition_and_validation_data_of_their_own(spark, tmp_path):
    rdd = spark.sparkContext.parallelize([numbered(20)], 1)
    model = SparkMultiLayer(spark, still(), direct(tmp_path))
    result = model.fit(rdd, validation=spark.sparkContext.parallelize([numbered(8)], 1))
    assert once(tmp_path, 20) == [20, 0]
    with torch.no_grad():
        whole = numbered(8)
        score = torch.nn.functional.cross_entropy(
            result.network.module(torch.as_tensor(whole.features)), torch.as_tensor(whole.labels)
        )
    assert result.history[0]["validation_score"] == pytest.approx(score.item(), rel=1e-5)


def test_labelled_points_that_a_union_is_behind(spark, tmp_path):
    """Spark refuses a barrier stage on the RDD of a union: it is laid out before."""
    from pyspark.mllib.regression import LabeledPoint

    points = [LabeledPoint(i % 3, [i] + [1.0] * (WIDTH - 1)) for i in range(50)]
    context = spark.sparkContext
    rdd = context.union([context.parallelize(points[:25], 1), context.parallelize(points[25:], 1)])
    SparkMultiLayer(spark, still(), direct(tmp_path)).fit_labeled_point(rdd)
    assert once(tmp_path, 50) == [25, 25]


def test_files_are_loaded_by_the_ranks(spark, tmp_path):
    (tmp_path / "saved").mkdir()
    for number, part in enumerate(numbered(30).batch_by(7)):
        part.save(tmp_path / "saved" / f"{number}.safetensors")
    fit(spark, str(tmp_path / "saved"), still(), direct(tmp_path))
    assert once(tmp_path, 30) == [14, 16]


def test_bad_rows_are_told_as_export_tells_them(spark, tmp_path):
    from pyspark.sql import functions as f

    frame = frame_of(spark, 40, 2).withColumn("label", f.when(f.element_at("features", 1) != 33, f.col("label")))
    texts = []
    for way in ("export", "direct"):
        master = make_master(rdd_training_approach=way, repartition="never" if way == "direct" else None)
        with pytest.raises(DataError) as caught:
            fit(spark, frame, still(), master)
        texts.append(str(caught.value))
    assert texts[0] == texts[1]
    assert "column 'label' has nulls in 1 row (1 in partition 1; the first is row 13 of partition 1)" in texts[1]
    with pytest.raises(DataError, match="the DataFrame is empty"):
        fit(spark, frame.where("label > 9"), still(), direct(tmp_path))


def test_a_run_goes_on_and_other_rows_are_refused(spark, tmp_path):
    def train(frame, *, epochs, resume=False, directory="run"):
        master = make_master(rdd_training_approach="direct", checkpoint=Checkpoint(every_epochs=1), repartition="never")
        model = SparkMultiLayer(spark, make_network(), master)
        result = model.fit(frame, epochs=epochs, resume=resume, run_directory=str(tmp_path / directory))
        return torch.cat([p.reshape(-1) for p in result.network.module.parameters()]).tolist()

    frame = spark.createDataFrame(spark.sparkContext.parallelize(make_rows(90), 2), SCHEMA)
    expected = train(frame, epochs=3, directory="whole")
    train(frame, epochs=2)
    assert train(frame, epochs=3, resume=True) == expected
    with pytest.raises(ConfigurationError, match="other rows than before"):
        train(frame.where("id != 70"), epochs=4, resume=True)


class Killing(TrainingHook):
    """Kills the worker of rank 1 in a step, once: the file tells that it has."""

    def __init__(self, file):
        self._file = str(file)

    def pre_update(self, moment):
        if (moment.rank, moment.step) == (1, 7) and not Path(self._file).exists():
            Path(self._file).touch()
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_worker_costs_an_attempt_and_leaves_no_file(spark, tmp_path, caplog):
    rdd = spark.sparkContext.parallelize([numbered(20, start) for start in (0, 20, 40, 60)], 2)

    def train(**options):
        network = make_network()
        fit(spark, rdd, network, make_master(rdd_training_approach="direct", **options), epochs=4)
        return [bits(each) for each in network.module.parameters()]

    expected = train()
    hook = Killing(tmp_path / "killed")
    killed = train(checkpoint=Checkpoint(every_epochs=1), training_hooks=(hook,), max_failures=1)
    assert (tmp_path / "killed").exists()
    assert "the ranks start again from epoch-00002" in caplog.text
    assert killed == expected


# ---- who gets what -------------------------------------------------------------------------------------------------


class Backwards(Repartitioner):
    """Gives the last objects to the first of two partitions."""

    def repartition(self, rdd, min_objects_per_partition, num_executors):
        assert (min_objects_per_partition, num_executors) == (16, 2)
        places = rdd.zipWithIndex().map(lambda pair: (int(pair[1] < 3), pair[0]))
        return places.partitionBy(2, lambda key: key).values()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [[0, 1, 2, 3, 4], [5, 6, 7, 8]]),
        ({"repartition": "never"}, [[0, 1, 2, 3, 4, 5], [6, 7, 8]]),
        ({"repartitioner": Backwards()}, [[3, 4, 5, 6, 7, 8], [0, 1, 2]]),
        ({"repartitioner": DefaultRepartitioner(4)}, [[0, 1, 2, 3, 4, 5, 6, 7, 8], []]),
    ],
)
def test_the_options_decide_who_gets_which_objects(spark, tmp_path, options, expected):
    rdd = spark.sparkContext.parallelize([numbered(1, i) for i in range(9)], 3)
    fit(spark, rdd, still(), direct(tmp_path, **options))
    assert seen(tmp_path) == expected


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"repartition": "num_partitions_workers_differs"}, [2, 7]),
        ({"repartition": "always", "repartition_strategy": "spark_default"}, None),
    ],
)
def test_two_partitions_stay_where_only_a_difference_counts(spark, tmp_path, options, sizes):
    context = spark.sparkContext
    data = [numbered(1, i) for i in range(9)]
    uneven = context.parallelize([data[:2], data[2:]], 2).flatMap(list)
    fit(spark, uneven, still(), direct(tmp_path, **options))
    found = once(tmp_path, 9)
    assert sizes is None or found == sizes


def test_partitions_of_a_table_stay_or_are_dealt_out(spark, tmp_path):
    frame = frame_of(spark, 40, 2).where("features[0] < 25")  # 20 and 5
    for options, sizes in (
        ({"repartition": "never"}, {20, 5}),
        ({"repartition": "num_partitions_workers_differs"}, {20, 5}),
        ({}, {12, 13}),
    ):
        fit(spark, frame, still(), direct(tmp_path, **options))
        assert set(once(tmp_path, 25)) == sizes
        for file in tmp_path.glob("rank-*"):
            file.unlink()
    with pytest.raises(ConfigurationError, match='repartition="never": the DataFrame has 3 partitions'):
        fit(spark, frame_of(spark, 40, 3), still(), direct(tmp_path, repartition="never"))


@pytest.mark.parametrize("way", ["export", "direct"])
def test_an_rdd_is_held_for_the_length_of_a_fit(spark, monkeypatch, way):
    from hvdspark.masters import base

    held = []
    run = base.run_to_the_end

    def looking(*args, **options):
        result = run(*args, **options)
        held.extend(str(each.getStorageLevel().description()) for each in levels())
        return result

    def levels():
        return list(spark.sparkContext._jsc.getPersistentRDDs().values())

    monkeypatch.setattr(base, "run_to_the_end", looking)
    rdd = spark.sparkContext.parallelize([numbered(9)], 2)
    master = make_master(rdd_training_approach=way, storage_level="DISK_ONLY")
    fit(spark, rdd, still(), master)
    assert len(held) == 1
    assert held[0].startswith("Disk")
    assert not levels()
    bad = rdd.map(lambda each: DataSet(each.features * np.nan, each.labels))
    with pytest.raises(DataError):
        fit(spark, bad, still(), master)
    assert not levels()
    held.clear()
    if way == "direct":
        fit(spark, frame_of(spark, 9, 2), still(), master)
        assert [each.split()[0] for each in held] == ["Disk"], "also a DataFrame, once ranks have read it"
        assert not levels()
    own = rdd.map(lambda each: each).cache()
    fit(spark, own, still(), master)
    assert own.is_cached
    own.unpersist()


@pytest.mark.parametrize(
    ("way", "source", "options", "name"),
    [
        ("export", "frame", {"storage_level": "DISK_ONLY"}, "storage_level cannot act on the DataFrame that is staged"),
        ("export", "frame", {"repartition": "always"}, "repartition cannot act"),
        ("export", "files", {"repartitioner": EqualRepartitioner()}, "repartitioner cannot act"),
        ("direct", "files", {"storage_level": "DISK_ONLY"}, "storage_level cannot act on the folder"),
        ("direct", "files", {"repartition_strategy": "balanced"}, "repartition_strategy cannot act"),
        ("direct", "frame", {"repartitioner": EqualRepartitioner()}, "repartitioner cannot act on a DataFrame"),
        ("direct", "frame", {"repartition_strategy": "balanced"}, "repartition_strategy cannot act on a DataFrame"),
    ],
)
def test_options_that_cannot_act_are_refused_before_anything_runs(spark, tmp_path, way, source, options, name):
    from hvdspark_launch import LocalLauncher

    frame = spark.range(4).selectExpr("array(1 / 0) as features", "cast(id as int) as label")  # fails where it is run
    numbered(3).save(tmp_path / "one.safetensors")
    data = frame if source == "frame" else str(tmp_path)
    with pytest.raises(ConfigurationError, match=name):
        fit(spark, data, still(), make_master(rdd_training_approach=way, **options))
    with pytest.raises(ConfigurationError, match="cannot act with LocalLauncher"):
        fit(spark, data, still(), make_master(rdd_training_approach="direct", launcher=LocalLauncher()))
