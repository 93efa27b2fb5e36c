import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hvdspark import storage
from hvdspark.data import parts
from hvdspark.data.columns import ColumnPlan
from hvdspark.data.manifest import Manifest
from hvdspark.data.parts import PartResult, write_part
from hvdspark.errors import StorageError

PLAN = ColumnPlan(("x",), "array", "y", "integer")


def batch(features, labels):
    arrays = [pa.array(features, pa.list_(pa.float32())), pa.array(labels, pa.int64())]
    return pa.RecordBatch.from_arrays(arrays, names=["hvdspark_features", "hvdspark_label"])


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def test_a_manifest_comes_back_as_it_went(staged, tmp_path):
    manifest = staged([10, 0, 3], rows_per_group=4)
    again = Manifest.read(tmp_path)
    assert again == manifest
    assert again.fingerprint == manifest.fingerprint
    assert again.rows_per_group == (4, 4, 2, 3)
    assert again.num_rows == 13
    assert [(file.name, group) for file, group in map(again.locate, range(4))] == [
        ("part-00000.parquet", 0),
        ("part-00000.parquet", 1),
        ("part-00000.parquet", 2),
        ("part-00002.parquet", 0),
    ]


def test_other_data_has_another_fingerprint(staged, tmp_path):
    prints = set()
    for number, rows in enumerate(([8], [9], [8, 1], [4, 4])):
        directory = tmp_path / str(number)
        directory.mkdir()
        prints.add(staged(rows, directory=directory).fingerprint)
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"format_version": 2}, "format version 2, this release reads 1"),
        ({"label_dtype": "object"}, "label_dtype"),
        ({"feature_width": -1}, "-1 is no positive"),
        ({"label_width": 1.5}, "1.5 is no positive"),
        ({"files": []}, "files must be listed"),
        ({"files": None}, "TypeError"),
        ({"feature_columns": None}, "TypeError"),
        ({"file": {"name": "../../etc/passwd"}}, "no name of a staged file"),
        ({"file": {"name": "part-00000.parquet/x"}}, "no name of a staged file"),
        ({"file": {"checksum": "abc"}}, "is no SHA-256"),
        ({"file": {"rows_per_group": [0]}}, "0 is no positive"),
        ({"file": {"rows_per_group": [True]}}, "True is no positive"),
    ],
)
def test_damaged_manifests_are_refused(staged, tmp_path, change, text):
    staged([10])
    path = tmp_path / "manifest.json"
    facts = json.loads(path.read_text())
    facts["files"][0].update(change.pop("file", {}))
    path.write_text(json.dumps({**facts, **change}))
    with pytest.raises(StorageError, match=text) as caught:
        Manifest.read(tmp_path)
    assert str(path) in str(caught.value)


def test_files_are_listed_once(staged, tmp_path):
    staged([10])
    facts = json.loads((tmp_path / "manifest.json").read_text())
    facts["files"] *= 2
    (tmp_path / "manifest.json").write_text(json.dumps(facts))
    with pytest.raises(StorageError, match="once each"):
        Manifest.read(tmp_path)


def test_a_folder_without_a_manifest_holds_no_data_set(tmp_path):
    with pytest.raises(StorageError, match="holds no staged data set"):
        Manifest.read(tmp_path)


@pytest.mark.parametrize("cut", [1, 3, 7, 100])
def test_the_file_does_not_depend_on_how_batches_are_cut(tmp_path, cut):
    features, labels = [[float(i), 0.5] for i in range(23)], list(range(23))
    source = [batch(features[i : i + cut], labels[i : i + cut]) for i in range(0, 23, cut)]
    result = write_part([batch([], []), *source], PLAN, str(tmp_path), 4, 10)
    whole = write_part([batch(features, labels)], PLAN, str(tmp_path), 5, 10)
    assert result.rows_per_group == (10, 10, 3)
    assert (result.file, result.partition, result.feature_width) == ("part-00004.parquet", 4, 2)
    assert (result.checksum, result.num_bytes) == (whole.checksum, whole.num_bytes)
    table = pq.read_table(tmp_path / result.file)
    assert table.column("features").to_pylist() == features
    assert table.column("label").to_pylist() == labels
    assert PartResult.from_json(result.to_json()) == result


def test_wide_rows_make_smaller_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "_MAX_GROUP_BYTES", 60)  # a row is 2 x 4 + 8 bytes
    result = write_part([batch([[1.0, 2.0]] * 7, [0] * 7)], PLAN, str(tmp_path), 0, 100)
    assert result.rows_per_group == (3, 3, 1)


def test_no_rows_make_no_file(tmp_path):
    assert write_part([], PLAN, str(tmp_path), 0, 10) is None
    assert write_part([batch([], [])], PLAN, str(tmp_path), 0, 10) is None
    assert names(tmp_path) == []


def test_bad_rows_are_counted_and_leave_no_file(tmp_path):
    good = batch([[1.0], [2.0]], [0, 1])
    source = [
        good,
        good,
        batch([[1.0], None], [0, 1]),
        good,
        batch([None, [1.0, 2.0]], [0, None]),
        batch([[1.0, 2.0]], [1]),
    ]
    result = write_part(source, PLAN, str(tmp_path), 3, 2)
    found = {(p.column, p.kind): (p.count, p.first_row, p.widths) for p in result.problems}
    assert found == {("x", "null"): (2, 5, None), ("y", "null"): (1, 9, None), ("x", "width"): (1, 10, (1, 2))}
    assert PartResult.from_json(result.to_json()) == result
    assert names(tmp_path) == []


def test_a_full_disk_is_a_result_and_leaves_no_file(tmp_path, monkeypatch):
    real = storage.AtomicWriter.write

    def write(self, data):
        if self.tell() > 1000:
            raise StorageError("cannot write here: no space left")
        return real(self, data)

    monkeypatch.setattr(storage.AtomicWriter, "write", write)
    result = write_part([batch([[1.0] * 50] * 100, [0] * 100)], PLAN, str(tmp_path), 0, 10)
    assert "no space left" in result.storage_error
    assert names(tmp_path) == []


def test_a_folder_that_a_worker_does_not_see_is_a_result(tmp_path):
    result = write_part([batch([[1.0]], [0])], PLAN, str(tmp_path / "gone"), 0, 10)
    assert "every host reaches" in result.storage_error
