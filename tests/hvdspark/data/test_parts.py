"""Staged files of rows with many fields, held-back rows, and many partitions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hvdspark import storage
from hvdspark.data.batches import Batches
from hvdspark.data.fields import Field
from hvdspark.data.manifest import Manifest, StagedFile, part_name, part_number
from hvdspark.data.parts import write_parts
from hvdspark.data.plan import EpochPlan
from hvdspark.data.row_groups import StagedRowGroups
from hvdspark.data.rows import Rows

FIELDS = (
    Field("feature", 0, "image", "uint8", (2, 2), "image"),
    Field("feature", 1, "tokens", "int64", (3,), "tokens"),
    Field("label", 0, "class", "int64", ()),
    Field("label", 1, "box", "float32", (2,)),
    Field("features_mask", 1, "padding", "bool", (3,), "tokens"),
    Field("weight", 0, "w", "float32", ()),
)


def rows_of(ids, flags=None):
    ids = np.asarray(ids)
    arrays = (
        np.repeat(ids % 256, 4).astype(np.uint8).reshape(-1, 2, 2),
        np.stack([ids, ids + 1, ids + 2], 1),
        ids,
        np.stack([ids / 2, ids / 4], 1).astype(np.float32),
        np.stack([ids % 2 == 0, ids % 3 == 0, ids % 5 == 0], 1),
        (ids / 8).astype(np.float32),
    )
    return Rows(len(ids), FIELDS, arrays, flags=flags)


def manifest_of(results, directory):
    files = tuple(StagedFile(r.file, r.rows_per_group, r.num_bytes, r.checksum) for r in results)
    manifest = Manifest(results[0].fields, files)
    manifest.write(directory)
    return Manifest.read(directory)


def batches_of(directory, size, batch_size):
    manifest = Manifest.read(directory)
    plan = EpochPlan(manifest.rows_per_group, size, batch_size, seed=3, epoch=1)
    return [batch for rank in range(size) for batch in Batches(StagedRowGroups(directory, manifest), plan, rank)]


def test_every_field_of_a_row_arrives_with_it_in_the_form_that_modules_take(tmp_path):
    results = [r for p in range(3) for r in write_parts([rows_of(range(p * 9, p * 9 + 9))], [str(tmp_path)], p, 4)]
    assert manifest_of(results, tmp_path).fields == FIELDS
    seen = []
    for batch in batches_of(tmp_path, 4, 3):
        ids = batch.labels[0]
        expected = [torch.from_numpy(array) for array in rows_of(ids.numpy()).arrays]
        assert batch.features.keys() == {"image", "tokens"}
        found = [batch.features["image"], batch.features["tokens"], *batch.labels, batch.features_mask["tokens"]]
        for one, other in zip([*found, batch.weights], expected, strict=True):
            assert one.dtype == other.dtype
            assert torch.equal(one, other)
        assert batch.labels_mask is None
        assert batch.examples == len(ids)
        seen += ids.tolist()
    assert sorted(seen) == list(range(27))


def test_a_rank_without_rows_gets_all_fields_empty(tmp_path):
    manifest_of(write_parts([rows_of([5])], [str(tmp_path)], 0, 4), tmp_path)
    batch = batches_of(tmp_path, 2, 1)[1]
    assert batch.examples == 0
    assert [tuple(each.shape) for each in (*batch.features.values(), *batch.labels, batch.weights)] == [
        (0, 2, 2),
        (0, 3),
        (0,),
        (0, 2),
        (0,),
    ]


@given(flags=st.lists(st.booleans(), min_size=1, max_size=50), cut=st.integers(1, 20))
@settings(max_examples=40, deadline=None)
def test_each_row_goes_to_one_of_two_places(tmp_path_factory, flags, cut):
    folder, flags = tmp_path_factory.mktemp("split"), np.array(flags)
    places = [str(folder / name) for name in ("train", "validation")]
    for place in places:
        storage.make_directories(place)
    source = [rows_of(np.arange(i, min(i + cut, len(flags))), flags[i : i + cut]) for i in range(0, len(flags), cut)]
    results = write_parts(source, places, 7, 6)
    found = {}
    for result in results:
        manifest_of([result], places[result.place])
        found[result.place] = sorted(i for b in batches_of(places[result.place], 1, 4) for i in b.labels[0].tolist())
    wanted = {0: np.flatnonzero(~flags).tolist(), 1: np.flatnonzero(flags).tolist()}
    assert found == {place: ids for place, ids in wanted.items() if ids}


def test_many_files_are_spread_over_folders(tmp_path):
    partitions = [0, 999, 1000, 1999, 2000, 100_000, 99_999]
    results = [write_parts([rows_of([p])], [str(tmp_path)], p, 4)[0] for p in sorted(partitions)]
    manifest = manifest_of(results, tmp_path)
    assert [file.name for file in manifest.files] == [
        "part-00000.parquet",
        "part-00999.parquet",
        "00001/part-01000.parquet",
        "00001/part-01999.parquet",
        "00002/part-02000.parquet",
        "00099/part-99999.parquet",
        "00100/part-100000.parquet",
    ]
    assert sorted(i for batch in batches_of(tmp_path, 2, 2) for i in batch.labels[0].tolist()) == sorted(partitions)
    manifest.check_files(tmp_path)


def test_a_task_that_outlives_its_job_brings_no_folder_back(tmp_path):
    (result,) = write_parts([rows_of([1])], [str(tmp_path / "removed")], 1234, 4)
    assert "every host reaches" in result.storage_error or "no such file or folder" in result.storage_error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [0, 7, 999, 1000, 54_321, 99_999, 100_000, 10**7])
def test_names_and_numbers_of_parts(number):
    assert part_number(part_name(number)) == number
    assert part_number(part_name(number) + "x") is None
    assert part_number("../" + part_name(number)) is None
