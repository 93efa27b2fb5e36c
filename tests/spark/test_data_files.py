"""Packing and looking through files on Spark gives what it gives here."""

import numpy as np
import pytest

from hvdspark import storage
from hvdspark.data import DataSet, FileBatch, create_file_batches, list_paths, validate_data_sets
from hvdspark.errors import StorageError

pytestmark = [pytest.mark.spark, pytest.mark.timeout(300)]


@pytest.fixture
def files(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for i in range(53):
        (folder / f"{i:03d}.bin").write_bytes(np.random.default_rng(i).bytes(i))
    return list_paths(folder)


def contents(folder):
    return {path.removeprefix(f"{folder}/"): storage.read_bytes(path) for path in list_paths(folder, recursive=True)}


@pytest.mark.parametrize(("batch_size", "seed"), [(8, None), (7, 3), (60, None)])
def test_batches_are_the_same_from_here_from_a_list_and_from_an_rdd(spark, files, tmp_path, batch_size, seed):
    here, listed, rdd = (tmp_path / name for name in ("here", "listed", "rdd"))
    create_file_batches(files, here, batch_size, seed=seed)
    create_file_batches(files, listed, batch_size, seed=seed, spark=spark)
    written = create_file_batches(spark.sparkContext.parallelize(files, 5), rdd, batch_size, seed=seed)
    assert contents(here) == contents(listed) == contents(rdd)
    assert sorted(path for each in written for path in FileBatch.load(each).paths) == files


@pytest.mark.parametrize("as_rdd", [False, True])
def test_a_missing_file_is_named_in_a_line_and_nothing_is_left(spark, files, tmp_path, as_rdd):
    gone = [*files, str(tmp_path / "gone.bin")]
    given = spark.sparkContext.parallelize(gone, 3) if as_rdd else gone
    with pytest.raises(StorageError, match=r"^cannot read .*gone\.bin"):
        create_file_batches(given, tmp_path / "out", 8, spark=None if as_rdd else spark)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("partitions", [1, 30])
def test_validation_counts_the_same_over_any_partitions(spark, tmp_path, partitions):
    for i in range(11):
        DataSet(np.ones((2, 4 + (i == 3))), np.ones(2)).save(tmp_path / f"{i:02d}.safetensors")
    (tmp_path / "05.safetensors").write_bytes(b"damaged")
    paths = [*list_paths(tmp_path), str(tmp_path / "gone")]
    expected = validate_data_sets(paths, features_shape=(-1, 4))
    assert (expected.num_valid, expected.num_invalid, expected.num_missing) == (9, 2, 1)
    assert validate_data_sets(paths, features_shape=(-1, 4), spark=spark) == expected
    rdd = spark.sparkContext.parallelize(paths, partitions)
    assert validate_data_sets(rdd, features_shape=(-1, 4)) == expected
    deleted = validate_data_sets(tmp_path, features_shape=(-1, 4), delete_invalid=True, spark=spark)
    assert deleted.num_deleted == 2
    assert len(list_paths(tmp_path)) == 9
