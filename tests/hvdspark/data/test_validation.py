import dataclasses

import numpy as np
import pytest

from hvdspark import storage
from hvdspark.data import DataSet, MultiDataSet, ValidationResult, list_paths
from hvdspark.data import validate_data_sets as validate
from hvdspark.data import validate_multi_data_sets as validate_several
from hvdspark.errors import DataError


def fill(folder):
    """Write files of every kind; return the paths that are invalid whatever the shape."""
    (folder / "deep").mkdir(parents=True)
    for i in range(5):
        DataSet(np.ones((3 + i, 4), np.float32), np.zeros(3 + i)).save(folder / "deep" / f"good{i}.safetensors")
    DataSet(np.ones((3, 5), np.float32), np.zeros(3)).save(folder / "wide.safetensors")
    DataSet(np.ones((3, 4), np.float32), np.zeros((3, 2))).save(folder / "labels.safetensors")
    DataSet(np.ones((3, 4), np.float32)).save(folder / "bare.safetensors")
    MultiDataSet([np.ones((3, 4))], [np.zeros(3)]).save(folder / "several.safetensors")
    whole = (folder / "wide.safetensors").read_bytes()
    (folder / "cut.safetensors").write_bytes(whole[:-3])
    (folder / "other.txt").write_text("not looked at")


def counts(result):
    return {name: value for name, value in dataclasses.asdict(result).items() if value and name != "problems"}


def test_counts(tmp_path):
    fill(tmp_path / "d")
    result = validate(tmp_path / "d", features_shape=(-1, 4), labels_shape=(None,))
    assert counts(result) == {
        "num_valid": 5, "num_damaged": 2, "num_missing_labels": 1, "num_wrong_features": 1, "num_wrong_labels": 1
    }  # fmt: skip
    assert (result.num_total, result.num_invalid) == (10, 5)
    assert counts(validate(tmp_path / "d")) == {"num_valid": 7, "num_damaged": 2, "num_missing_labels": 1}
    assert counts(validate(tmp_path / "d", needs_labels=False)) == {"num_valid": 8, "num_damaged": 2}
    assert counts(validate(tmp_path / "d", recursive=False))["num_valid"] == 2


@pytest.mark.parametrize(
    ("shape", "num_valid"), [((0, 4), 6), ((3, 4), 2), ((-1, -1), 7), ((-1,), 0), ((-1, 4, 1), 0), ((4, None), 1)]
)
def test_shapes(tmp_path, shape, num_valid):
    fill(tmp_path / "d")
    assert validate(tmp_path / "d", features_shape=shape).num_valid == num_valid


def test_missing_files_are_counted_and_the_others_named(tmp_path):
    DataSet(np.ones(2), np.ones(2)).save(tmp_path / "a")
    result = validate([tmp_path / "a", tmp_path / "b"])
    assert counts(result) == {"num_valid": 1, "num_missing": 1}
    assert str(result) == f"2 files: 1 valid, 0 invalid\n  missing: 1\n  {tmp_path}/b: is not there"


def test_invalid_files_are_deleted_on_request_only(tmp_path):
    folder = tmp_path / "d"
    fill(folder)
    before = list_paths(folder, recursive=True)
    validate(folder, features_shape=(-1, 4))
    assert list_paths(folder, recursive=True) == before
    result = validate([*before[:-1], tmp_path / "gone"], features_shape=(-1, 4), delete_invalid=True)
    assert result.num_deleted == result.num_invalid > 0
    again = validate(folder, features_shape=(-1, 4), needs_labels=False)
    assert again.num_invalid == (before[-1] == str(folder / "wide.safetensors"))
    assert (folder / "deep" / "good4.safetensors").exists()


def test_what_the_storage_fails_to_read_is_not_deleted(tmp_path):
    (tmp_path / "folder.safetensors").mkdir()  # cannot be read as a file
    result = validate([tmp_path / "folder.safetensors"], delete_invalid=True)
    assert counts(result) == {"num_unreadable": 1}
    assert (tmp_path / "folder.safetensors").exists()


def test_urls():
    storage.write_bytes("memory://v/x.safetensors", b"nothing")
    DataSet(np.ones(2), np.ones(2)).save("memory://v/y.safetensors")
    result = validate("memory://v", delete_invalid=True)
    assert counts(result) == {"num_valid": 1, "num_damaged": 1, "num_deleted": 1}
    assert storage.list_files("memory://v") == ["memory://v/y.safetensors"]
    storage.remove_tree("memory://v/y.safetensors")


def test_several_inputs_and_outputs(tmp_path):
    MultiDataSet([np.ones((3, 4)), np.ones((3, 5))], [np.ones(3)]).save(tmp_path / "a.safetensors")
    MultiDataSet([np.ones((3, 4))], [np.ones(3)]).save(tmp_path / "b.safetensors")
    MultiDataSet([np.ones((3, 4))]).save(tmp_path / "c.safetensors")
    assert counts(validate_several(tmp_path)) == {"num_valid": 2, "num_missing_labels": 1}
    result = validate_several(tmp_path, features_shapes=[(-1, 4), None], needs_labels=False)
    assert counts(result) == {"num_valid": 1, "num_wrong_features": 2}
    assert "has 1 features, 2 were expected" in str(result)
    result = validate_several(tmp_path, labels_shapes=[(9,)])
    assert counts(result) == {"num_wrong_labels": 2, "num_missing_labels": 1}
    assert "has labels of shape [3], [9] was expected" in str(result)


def test_sums_name_a_few_files_only():
    one = ValidationResult(num_damaged=6, num_valid=1, problems=tuple((f"p{i}", "why") for i in range(6)))
    both = one + one
    assert (both.num_total, both.num_invalid, len(both.problems)) == (14, 12, 10)
    assert str(both).endswith("and 2 more")
    assert ValidationResult() + one == one


def test_nothing_to_look_for_is_refused(tmp_path):
    (tmp_path / "x.txt").touch()
    with pytest.raises(DataError, match=r"no file whose name ends with \.safetensors"):
        validate(tmp_path)
    with pytest.raises(DataError, match="no file to look for"):
        validate([])
