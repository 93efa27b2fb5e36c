import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hvdspark import storage
from hvdspark.data import filling
from hvdspark.data.columns import ColumnField, ColumnPlan
from hvdspark.data.fields import Field
from hvdspark.data.manifest import Manifest
from hvdspark.data.parts import PartResult, write_parts
from hvdspark.errors import StorageError

FIELDS = (
    ColumnField("feature", 0, ("x",), "array", "float32"),
    ColumnField("label", 0, ("y",), "scalar", "int64"),
)
PLAN = ColumnPlan(FIELDS)


def write_part(batches, directory, partition, rows_per_group):
    """What becomes of one partition whose rows all go to one place."""
    results = write_parts(PLAN.rows(batches), [directory], partition, rows_per_group)
    assert len(results) < 2
    return results[0] if results else None


def batch(features, labels):
    arrays = [pa.array(features, pa.list_(pa.float32())), pa.array(labels, pa.int64())]
    return pa.RecordBatch.from_arrays(arrays, names=["hvdspark_feature_0", "hvdspark_label_0"])


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
        ({"format_version": 2}, "format version 2, this release reads 3: stage again"),
        ({"fields": []}, "fields must be listed once each"),
        ({"field": {"dtype": "object"}}, "'feature' of 'object'"),
        ({"field": {"role": "secret"}}, "a 'secret' of 'float32'"),
        ({"field": {"index": -1}}, "-1 is no number of a field"),
        ({"field": {"shape": [-1]}}, "-1 is no positive"),
        ({"field": {"shape": [2, 1.5]}}, "1.5 is no positive"),
        ({"field": {"role": "label"}}, "fields must be listed once each"),
        ({"files": []}, "files must be listed"),
        ({"files": None}, "TypeError"),
        ({"fields": None}, "TypeError"),
        ({"file": {"name": "../../etc/passwd"}}, "no name of a staged file"),
        ({"file": {"name": "part-00000.parquet/x"}}, "no name of a staged file"),
        ({"file": {"name": "00001/part-00000.parquet"}}, "no name of a staged file"),
        ({"file": {"name": "part-01000.parquet"}}, "no name of a staged file"),
        ({"file": {"checksum": "abc"}}, "is no SHA-256"),
        ({"file": {"rows_per_group": [0]}}, "0 is no positive"),
        ({"file": {"rows_per_group": [True]}}, "True is no positive"),
    ],
)
def test_damaged_manifests_are_refused(staged, tmp_path, change, text):
    staged([10])
    path = tmp_path / "manifest.json"
    facts = json.loads(path.read_text())
    facts["files"][0].update(change.get("file", {}))
    facts["fields"][0].update(change.get("field", {}))
    change = {key: value for key, value in change.items() if key not in ("file", "field")}
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
    result = write_part([batch([], []), *source], str(tmp_path), 4, 10)
    whole = write_part([batch(features, labels)], str(tmp_path), 5, 10)
    assert result.rows_per_group == (10, 10, 3)
    assert (result.file, result.partition, result.place) == ("part-00004.parquet", 4, 0)
    assert result.fields == (Field("feature", 0, "x", "float32", (2,)), Field("label", 0, "y", "int64", ()))
    assert (result.checksum, result.num_bytes) == (whole.checksum, whole.num_bytes)
    table = pq.read_table(tmp_path / result.file)
    stored = b"".join(table.column("feature_0").to_pylist())  # a row is one value of so many bytes
    assert np.frombuffer(stored, np.float32).reshape(-1, 2).tolist() == features
    assert table.column("label_0").to_pylist() == labels
    assert PartResult.from_json(result.to_json()) == result


def test_wide_rows_make_smaller_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(filling, "_MAX_GROUP_BYTES", 60)  # a row is 2 x 4 + 8 bytes
    result = write_part([batch([[1.0, 2.0]] * 7, [0] * 7)], str(tmp_path), 0, 100)
    assert result.rows_per_group == (3, 3, 1)


def test_no_rows_make_no_file(tmp_path):
    assert write_part([], str(tmp_path), 0, 10) is None
    assert write_part([batch([], [])], str(tmp_path), 0, 10) is None
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
    result = write_part(source, str(tmp_path), 3, 2)
    found = {(p.column, p.kind): (p.count, p.first_row, p.detail) for p in result.problems}
    assert found == {
        ("x", "null"): (2, 5, ""),
        ("y", "null"): (1, 9, ""),
        ("x", "width"): (1, 10, "1 and 2 values"),
    }
    assert PartResult.from_json(result.to_json()) == result
    assert names(tmp_path) == []


def test_a_full_disk_is_a_result_and_leaves_no_file(tmp_path, monkeypatch):
    real = storage.AtomicWriter.write

    def write(self, data):
        if self.tell() > 1000:
            raise StorageError("cannot write here: no space left")
        return real(self, data)

    monkeypatch.setattr(storage.AtomicWriter, "write", write)
    result = write_part([batch([[1.0] * 50] * 100, [0] * 100)], str(tmp_path), 0, 10)
    assert "no space left" in result.storage_error
    assert names(tmp_path) == []


def test_a_folder_that_a_worker_does_not_see_is_a_result(tmp_path):
    result = write_part([batch([[1.0]], [0])], str(tmp_path / "gone"), 0, 10)
    assert "every host reaches" in result.storage_error
