import hashlib
import io
import os
import shutil
import threading
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from hvdspark import storage
from hvdspark.errors import StorageError
from hvdspark.storage import files


class SlowShelf(MemoryFileSystem):
    """A remote file system whose puts can be seen half done, as HDFS or SFTP: it must get a put and a move."""

    protocol = "slowshelf"
    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]
    broken = False

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("slowshelf://", "memory://"))

    def put_file(self, lpath, rpath, *args, **kwargs):
        assert rpath.rpartition("/")[2].startswith("."), "the final name must come by a move"
        super().put_file(lpath, rpath, *args, **kwargs)
        if self.broken:
            raise OSError("the line broke")


fsspec.register_implementation("slowshelf", SlowShelf, clobber=True)


@pytest.fixture(params=["plain", "file:", "file://", "memory://", "slowshelf://"])
def folder(request, tmp_path):
    path = str(tmp_path / "there") if request.param in ("plain", "file:", "file://") else "/there"
    place = path if request.param == "plain" else request.param + path
    storage.make_directories(place)
    yield place
    storage.remove_tree(place)


def test_files_come_and_go_the_same_everywhere(folder):
    path = storage.join(folder, "a.bin")
    assert not storage.exists(path)
    digest = storage.write_bytes(path, b"one")
    assert digest == hashlib.sha256(b"one").hexdigest() == storage.checksum(path)
    assert storage.exists(path)
    assert storage.read_bytes(path) == b"one"
    storage.write_bytes(path, memoryview(b"two"))
    assert storage.read_bytes(path, expected_checksum=storage.checksum(path)) == b"two"
    storage.make_directories(storage.join(folder, "sub"))
    storage.write_json(storage.join(folder, "sub", "b.json"), {"x": [1, 2.5, None]})
    assert storage.list_files(folder) == [path]
    assert storage.list_files(folder, recursive=True) == [path, storage.join(folder, "sub", "b.json")]
    assert storage.read_json(storage.join(folder, "sub", "b.json")) == {"x": [1, 2.5, None]}
    storage.remove_tree(path)
    storage.remove_tree(path)
    assert not storage.exists(path)
    storage.remove_tree(folder)
    assert not storage.exists(storage.join(folder, "sub", "b.json"))
    assert storage.list_files(folder) == []


def test_a_changed_or_missing_file_is_named(folder):
    path = storage.join(folder, "a.bin")
    with pytest.raises(StorageError, match="there is no such file") as caught:
        storage.read_bytes(path)
    assert path in str(caught.value)
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    digest = storage.write_bytes(path, b"one")
    storage.write_bytes(path, b"other")
    with pytest.raises(StorageError, match=r"a\.bin has changed or is damaged"):
        storage.read_bytes(path, expected_checksum=digest)


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def everything(folder):
    if storage.is_local(folder):
        return sorted(file.name for file in storage.local_path(folder).iterdir())
    file_system, name = fsspec.core.url_to_fs(folder)
    return sorted(entry.rpartition("/")[2] for entry in file_system.find(name))


def test_a_file_that_was_not_finished_leaves_the_old_one(folder):
    path = storage.join(folder, "a.bin")
    storage.write_bytes(path, b"old")

    def fail():
        with storage.AtomicWriter(path) as file:
            file.write(b"half")
            assert storage.read_bytes(path) == b"old"
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    dropped = storage.AtomicWriter(path)
    dropped.write(b"never committed")
    dropped.close()
    assert storage.read_bytes(path) == b"old"
    assert everything(folder) == ["a.bin"]


def test_a_put_that_breaks_leaves_the_old_file(monkeypatch):
    storage.make_directories("slowshelf://there")
    storage.write_bytes("slowshelf://there/a", b"old")
    monkeypatch.setattr(SlowShelf, "broken", True)
    with pytest.raises(StorageError, match="cannot write slowshelf://there/a: the line broke"):
        storage.write_bytes("slowshelf://there/a", b"new")
    assert storage.read_bytes("slowshelf://there/a") == b"old"
    assert everything("slowshelf://there") == ["a"]
    storage.remove_tree("slowshelf://there")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_local_write_that_breaks_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "a"
    storage.write_bytes(path, b"old")

    def broken(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os if call == "fsync" else type(path), call, broken)
    with pytest.raises(StorageError, match="No space left on device"):
        storage.write_bytes(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_data_and_folder_are_synced_before_and_after_the_rename(tmp_path, monkeypatch):
    calls = []
    real_sync, real_replace = os.fsync, type(tmp_path).replace
    monkeypatch.setattr(
        files.os, "fsync", lambda fd: (calls.append(str(Path(f"/proc/self/fd/{fd}").readlink())), real_sync(fd))
    )
    monkeypatch.setattr(type(tmp_path), "replace", lambda a, b: (calls.append("rename"), real_replace(a, b))[1])
    storage.write_bytes(tmp_path / "a", b"x")
    assert calls[0].startswith(str(tmp_path / ".a."))
    assert calls[1:] == ["rename", str(tmp_path)]


def test_readers_never_see_half_a_file(tmp_path):
    path = tmp_path / "a"
    contents = [bytes([i]) * 100_000 for i in range(2)]
    storage.write_bytes(path, contents[0])
    stop, seen = threading.Event(), set()

    def read():
        while not stop.is_set():
            seen.add(storage.read_bytes(path))

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(60):
        storage.write_bytes(path, contents[i % 2])
    stop.set()
    reader.join()
    assert seen
    assert seen <= set(contents)


def test_a_missing_folder_is_not_made_in_passing(tmp_path):
    with pytest.raises(StorageError, match="its folder is not there on this host"):
        storage.write_bytes(tmp_path / "gone" / "a", b"x")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("path", "local"),
    [
        ("/a/b", "/a/b"),
        ("a:b/c", "a:b/c"),
        ("file:/a b/c%20d", "/a b/c%20d"),
        ("file:///a/b", "/a/b"),
        ("FILE:/a", "/a"),
        ("file://localhost/a", "/a"),
    ],
)
def test_local_paths(path, local):
    assert storage.is_local(path)
    assert str(storage.local_path(path)) == local


def test_urls_of_other_kinds_are_not_local():
    assert not storage.is_local("s3://bucket/key")
    with pytest.raises(StorageError, match="local paths only"):
        storage.local_path("s3://bucket/key")
    with pytest.raises(StorageError, match="dbfs://"):
        storage.is_local("dbfs:/data")
    with pytest.raises(StorageError, match="another host"):
        storage.local_path("file://elsewhere/a")
    with pytest.raises(StorageError, match="cannot look for nosuch://a/b"):
        storage.exists("nosuch://a/b")


@pytest.mark.parametrize("part", ["", "/etc", "../a", "a/../../b", "a\\b", "a\0b"])
def test_names_stay_below_their_folder(part):
    with pytest.raises(StorageError, match="no name below"):
        storage.join("/run", part)


@pytest.mark.parametrize(
    ("path", "joined"),
    [("/run", "/run/a/b"), ("/run/", "/run/a/b"), ("/", "/a/b"), ("run", "run/a/b"), ("s3://x/", "s3://x/a/b")],
)
def test_join(path, joined):
    assert storage.join(path, "a", "b") == joined


def test_listings_leave_half_written_files_out(tmp_path):
    (tmp_path / ".a.123.tmp").write_bytes(b"")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "b").write_bytes(b"")
    assert storage.list_files(tmp_path, recursive=True) == []


@pytest.mark.parametrize("path", ["/", "file:///", "memory://"])
def test_whole_stores_are_not_removed(path):
    with pytest.raises(StorageError, match="is not removed"):
        storage.remove_tree(path)


def test_removing_a_link_leaves_what_it_points_to(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    storage.remove_tree(tmp_path / "link")
    assert names(tmp_path) == ["real"]
    assert names(tmp_path / "real") == ["a"]


@pytest.mark.parametrize("value", [float("nan"), {"x": [float("inf")]}, {"x": object()}])
def test_what_is_no_json_is_not_written(tmp_path, value):
    with pytest.raises(StorageError, match=r"a\.json cannot be written as JSON"):
        storage.write_json(tmp_path / "a.json", value)
    assert names(tmp_path) == []


@pytest.mark.parametrize("text", ["{", "NaN", '{"a": -Infinity}', "[" * 100_000, "\xff"])
def test_what_is_no_json_is_not_read(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(StorageError, match=r"a\.json is not JSON"):
        storage.read_json(tmp_path / "a.json")


DTYPES = ["bool", "uint8", "int32", "int64", "float16", "float32", "float64"]
arrays = st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 4), max_size=3), st.integers(0, 9))


@given(
    shapes=st.dictionaries(
        st.text(st.characters(codec="utf-8"), min_size=1, max_size=8), arrays, min_size=0, max_size=5
    )
)
@settings(max_examples=40, deadline=None)
def test_tensors_come_back_as_they_went(tmp_path_factory, shapes):
    path = tmp_path_factory.mktemp("t") / "t.safetensors"
    shapes.pop("__metadata__", None)
    before = {name: np.full(shape, value, dtype) for name, (dtype, shape, value) in shapes.items()}
    digest = storage.write_tensors(path, before, {"a": "ü", "b": "2"})
    assert digest == storage.checksum(path)
    after, metadata = storage.read_tensors(path, expected_checksum=digest)
    assert metadata == {"a": "ü", "b": "2"}
    assert after.keys() == before.keys()
    for name, array in after.items():
        np.testing.assert_array_equal(array, before[name], strict=True)
        assert array.flags.writeable
    as_tensors, _ = storage.read_tensors(path, framework="torch")
    assert storage.write_tensors(path, as_tensors, {"b": "2", "a": "ü"}) == digest


def test_equal_tensors_give_equal_bytes_whatever_the_order(tmp_path):
    metadata = {str(i): "x" for i in range(20)}
    one = storage.write_tensors(tmp_path / "1", {"a": np.ones(3), "b": np.zeros(2)}, metadata)
    two = storage.write_tensors(tmp_path / "2", {"b": np.zeros(2), "a": np.ones(3)}, dict(reversed(metadata.items())))
    assert one == two


def test_tensors_that_share_memory_and_odd_layouts_are_written(tmp_path):
    flat = torch.arange(6.0)
    weight = torch.nn.Parameter(torch.ones(2, 3).t())
    tensors = {
        "a": flat[:4],
        "b": flat[2:],
        "tied": flat[:4],
        "w": weight,
        "n": np.arange(6).reshape(2, 3).T,
        "s": np.array(3),
    }
    tensors["half"] = torch.ones(2, dtype=torch.bfloat16)
    storage.write_tensors(tmp_path / "t", tensors)
    after, metadata = storage.read_tensors(tmp_path / "t", framework="torch")
    assert metadata == {}
    for name, value in tensors.items():
        assert torch.equal(after[name], torch.as_tensor(value)), name
    with pytest.raises(StorageError, match="framework='torch'"):
        storage.read_tensors(tmp_path / "t")


def test_the_file_is_one_that_safetensors_reads(tmp_path):
    from safetensors import safe_open

    storage.write_tensors(tmp_path / "t", {"x": np.arange(5, dtype=np.float32)}, {"made": "by us"})
    with safe_open(tmp_path / "t", "np") as file:
        assert file.metadata() == {"made": "by us"}
        np.testing.assert_array_equal(file.get_tensor("x"), np.arange(5, dtype=np.float32))


def test_damaged_tensors_are_refused_by_name(tmp_path):
    path = tmp_path / "t"
    digest = storage.write_tensors(path, {"x": np.ones(4)})
    data = path.read_bytes()
    for damaged in (b"", data[:5], data[:-1], b"\xff" * 16, data + b"x"):
        path.write_bytes(damaged)
        with pytest.raises(StorageError, match=f"{path} is no whole safetensors file"):
            storage.read_tensors(path)
        with pytest.raises(StorageError, match="has changed or is damaged"):
            storage.read_tensors(path, expected_checksum=digest)


def test_metadata_is_text(tmp_path):
    with pytest.raises(StorageError, match="turn step into str"):
        storage.write_tensors(tmp_path / "t", {"x": np.ones(1)}, {"step": 3, "a": "b"})


def test_line_log(tmp_path):
    path = tmp_path / "events.jsonl"
    with storage.LineLog(path) as one, storage.LineLog(f"file://{path}") as two:
        one.append({"n": 1, "text": "a\nb"})
        two.append({"n": 2})
        one.append({"n": 3})
        with pytest.raises(StorageError, match="cannot be written as JSON"):
            one.append({"n": float("nan")})
    assert [record["n"] for record in storage.read_lines(path)] == [1, 2, 3]
    assert storage.read_lines(path)[0]["text"] == "a\nb"
    with pytest.raises(StorageError, match="closed"):
        one.append({"n": 4})
    with path.open("a") as file:
        file.write('{"n": 4')
    assert len(storage.read_lines(path)) == 3
    with path.open("a") as file:
        file.write("\n[5]\n")
    with pytest.raises(StorageError, match="line 4 is not JSON"):
        storage.read_lines(path)


def test_lines_must_be_objects(tmp_path):
    (tmp_path / "e").write_text('{"a": 1}\n[2]\n')
    with pytest.raises(StorageError, match="line 2: an object is needed"):
        storage.read_lines(tmp_path / "e")


def test_threads_append_whole_lines(tmp_path):
    path = tmp_path / "events.jsonl"

    def write(rank):
        with storage.LineLog(path) as log:
            for step in range(200):
                log.append({"rank": rank, "step": step, "text": "x" * (step % 50)})

    writers = [threading.Thread(target=write, args=(rank,)) for rank in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    records = storage.read_lines(path)
    for rank in range(4):
        assert [record["step"] for record in records if record["rank"] == rank] == list(range(200))


def test_logs_need_a_local_path():
    with pytest.raises(StorageError, match="local paths only"):
        storage.LineLog("memory://x/events.jsonl")


def test_a_writer_is_a_file_for_others(tmp_path):
    with storage.AtomicWriter(tmp_path / "a") as file:
        shutil.copyfileobj(io.BytesIO(b"x" * 100_000), file, 777)
        assert file.tell() == 100_000
    assert (tmp_path / "a").read_bytes() == b"x" * 100_000
    assert file.closed
    assert file.checksum == storage.checksum(tmp_path / "a")
