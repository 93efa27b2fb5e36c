"""How long staged data live, and when they are used again."""

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from contracts.table import WIDTH, make_master, make_network, make_rows
from hvdspark import DataSet, SparkMultiLayer, storage
from hvdspark.data.elements import element_rows
from hvdspark.data.parts import write_parts
from hvdspark.errors import RankFailed

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(300)]

SCHEMA = "id int, features array<float>, label int"


def fits(spark, caplog, export, data, network=None, **options):
    """Fit, and tell whether staged data were used again."""
    master = make_master(export_directory=str(export))
    columns = options.pop("columns", {})
    caplog.clear()
    with caplog.at_level(logging.INFO, logger="hvdspark"):
        result = SparkMultiLayer(spark, network or make_network(), master, **columns).fit(data, **options)
    assert sum(rank.examples for rank in result.stats.ranks) > 0
    return [line for line in caplog.messages if "was staged before" in line]


def folders(export):
    return sorted(path.name for path in export.iterdir() if path.is_dir())


def test_without_an_export_directory_nothing_stays(spark, table, tmp_path):
    for network, fails in ((make_network(), False), (make_network(outputs=2), True)):
        model = SparkMultiLayer(spark, network, make_master())
        if fails:
            with pytest.raises(RankFailed):
                model.fit(table, run_directory=str(tmp_path))
        else:
            model.fit(table, run_directory=str(tmp_path))
        assert not list(tmp_path.glob("staged-*"))


def test_a_table_is_staged_once(spark, table, tmp_path, caplog):
    export = tmp_path / "export"
    assert not fits(spark, caplog, export, table)
    staged = folders(export)
    assert fits(spark, caplog, export, table)
    assert folders(export) == staged
    with pytest.raises(RankFailed):
        fits(spark, caplog, export, table, make_network(outputs=2))
    assert folders(export) == staged, "what is whole stays after a failure"
    assert not fits(spark, caplog, export, table.where("id > 3"))
    assert not fits(spark, caplog, export, table, columns={"features_col": ["id", "label"]}, network=_narrow())
    assert not fits(spark, caplog, export, table, columns={"weight_col": "id"})
    assert len(folders(export)) == 4
    flagged = table.selectExpr("*", "id % 2 = 0 as v")
    assert not fits(spark, caplog, export, flagged, validation="v")
    assert fits(spark, caplog, export, flagged, validation="v")
    assert len(folders(export)) == 6


def test_fits_at_one_time_share_an_export_directory(spark, table, tmp_path, caplog):
    """Both stage at once: each trains on data that are whole, and one data set stays."""
    with ThreadPoolExecutor(2) as threads:
        master = make_master(export_directory=str(tmp_path))
        models = [SparkMultiLayer(spark, make_network(), master) for _ in range(2)]
        results = list(threads.map(lambda model: model.fit(table), models))
    assert [sum(rank.examples for rank in result.stats.ranks) for result in results] == [table.count()] * 2
    assert fits(spark, caplog, tmp_path, table)
    assert len(list(tmp_path.glob("staged-*.json"))) == 1
    assert not list(tmp_path.glob("staging-*"))


def _narrow():
    import torch

    network = make_network()
    network.module[0] = torch.nn.Linear(2, 24)
    return network


def test_files_that_change_are_staged_again(spark, tmp_path, caplog):
    """Also a table on disk, whose query plan says nothing of it."""
    export, rows = tmp_path / "export", make_rows()
    spark.createDataFrame(rows[:200], SCHEMA).write.parquet(str(tmp_path / "table"))
    assert not fits(spark, caplog, export, str(tmp_path / "table"))
    assert fits(spark, caplog, export, str(tmp_path / "table"))
    spark.createDataFrame(rows[200:], SCHEMA).write.mode("append").parquet(str(tmp_path / "table"))
    assert not fits(spark, caplog, export, str(tmp_path / "table"))
    folder = tmp_path / "saved"
    folder.mkdir()
    for number in range(2):
        DataSet(np.ones((5, WIDTH)), np.full(5, number)).save(folder / f"{number}.safetensors")
    assert not fits(spark, caplog, export, str(folder))
    assert fits(spark, caplog, export, str(folder))
    DataSet(np.ones((6, WIDTH)), np.zeros(6, int)).save(folder / "1.safetensors")
    assert not fits(spark, caplog, export, str(folder))


def test_loaders_that_change_stage_again(spark, tmp_path, caplog):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"3")

    def loader(count):
        return lambda path: DataSet(np.ones((count, WIDTH)), np.zeros(count, int))

    assert not fits(spark, caplog, tmp_path / "export", str(tmp_path / "in"), loader=loader(3))
    assert fits(spark, caplog, tmp_path / "export", str(tmp_path / "in"), loader=loader(3))
    assert not fits(spark, caplog, tmp_path / "export", str(tmp_path / "in"), loader=loader(4))


@pytest.mark.parametrize("harm", ["flip", "remove", "no manifest"])
def test_what_was_damaged_is_staged_again(spark, table, tmp_path, caplog, harm):
    export = tmp_path / "export"
    fits(spark, caplog, export, table)
    folder = export / folders(export)[0]
    part = min(folder.glob("part-*"))
    if harm == "flip":
        data = bytearray(part.read_bytes())
        data[50] ^= 1
        part.write_bytes(data)
    else:
        (part if harm == "remove" else folder / "manifest.json").unlink()
    assert not fits(spark, caplog, export, table)
    assert fits(spark, caplog, export, table)


def test_rows_of_an_rdd_are_staged_once(spark, tmp_path, caplog):
    data = spark.sparkContext.parallelize([DataSet(np.ones((5, WIDTH)), np.zeros(5, int))])
    assert not fits(spark, caplog, tmp_path, data)
    assert fits(spark, caplog, tmp_path, data)
    same = spark.sparkContext.parallelize([DataSet(np.ones((5, WIDTH)), np.zeros(5, int))])
    assert not fits(spark, caplog, tmp_path, same)


@pytest.mark.parametrize("scheme", ["file", "local"])
def test_urls(spark, table, tmp_path, caplog, scheme):
    """``local:`` is a remote file system to us, reached through fsspec, that all processes of this host share."""
    export = f"{scheme}://{tmp_path}/export"
    assert not fits(spark, caplog, export, table)
    assert fits(spark, caplog, export, table)
    (tmp_path / "saved").mkdir()
    for number in range(3):
        DataSet(np.ones((5, WIDTH)), np.full(5, number)).save(tmp_path / "saved" / f"{number}.safetensors")
    folder = f"{scheme}://{tmp_path}/saved"
    assert not fits(spark, caplog, export, folder)
    assert fits(spark, caplog, export, folder)
    assert not fits(spark, caplog, export, f"{folder}/1.safetensors")
    assert len(folders(tmp_path / "export")) == 3


@pytest.mark.parametrize("scheme", ["file", "local"])
def test_many_partitions_are_spread_over_folders(tmp_path, scheme):
    place = f"{scheme}://{tmp_path}/out"
    storage.make_directories(place)
    rows = list(element_rows([DataSet(np.ones((3, 2)), np.zeros(3, int))]))
    results = [write_parts(rows, [place], partition, 4)[0] for partition in (7, 1007, 2007)]
    assert [result.storage_error for result in results] == [""] * 3
    assert [path.removeprefix(place) for path in storage.list_files(place, recursive=True)] == [
        "/00001/part-01007.parquet",
        "/00002/part-02007.parquet",
        "/part-00007.parquet",
    ]
