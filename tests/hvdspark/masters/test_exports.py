"""Fits that share an export directory: at one time, one after the other, and after one was killed."""

import json
import os
import socket
import threading

import pytest

from hvdspark import storage
from hvdspark.data import Field, Manifest
from hvdspark.data.manifest import StagedFile
from hvdspark.errors import StorageError
from hvdspark.masters.exports import ExportDirectory

IDENTITY = "ab" * 32
NO_PROCESS = 2**22 + 7  # above what Linux counts to


def stager(text, identity=IDENTITY, before=lambda: None):
    """Stage a file with a text in each folder."""

    def stage(places):
        manifests = []
        for place in places:
            storage.make_directories(place)
            checksum = storage.write_bytes(storage.join(place, "part-00000.parquet"), text.encode())
            files = (StagedFile("part-00000.parquet", (1,), len(text), checksum),)
            fields = (Field("feature", 0, "features", "float32", (2,)), Field("label", 0, "label", "int64", ()))
            manifests.append(Manifest(fields, files, identity))
            manifests[-1].write(place)
        before()
        return manifests

    return stage


def must_not_stage(places):
    raise AssertionError("it is there")


def text_of(places):
    return [storage.read_bytes(storage.join(place, "part-00000.parquet")).decode() for place in places]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("num_parts", [1, 2])
def test_what_is_whole_is_used_again(tmp_path, num_parts):
    for stage in (stager("first"), must_not_stage, must_not_stage):
        manifests, places = ExportDirectory(str(tmp_path / "export")).data_set("data", IDENTITY, num_parts, stage)
        assert text_of(places) == ["first"] * num_parts
        assert [manifest.source for manifest in manifests] == [IDENTITY] * num_parts
    assert len(names(tmp_path / "export")) == num_parts + 1


def test_what_cannot_be_told_again_is_staged_each_time(tmp_path):
    for text in ("first", "second"):
        _, places = ExportDirectory(str(tmp_path)).data_set("data", "", 1, stager(text, ""))
        assert text_of(places) == [text]
    assert len(names(tmp_path)) == 2


@pytest.mark.parametrize("harm", ["flip", "remove", "no manifest", "no entry", "another number of parts"])
def test_what_is_damaged_is_staged_again(tmp_path, harm):
    export = ExportDirectory(str(tmp_path))
    _, (place,) = export.data_set("data", IDENTITY, 1, stager("first"))
    if harm == "flip":
        storage.write_bytes(storage.join(place, "part-00000.parquet"), b"fIrst")
    elif harm == "another number of parts":
        export.data_set("data", IDENTITY, 2, stager("both"))
    else:
        name = {"remove": "part-00000.parquet", "no manifest": "manifest.json"}.get(harm)
        storage.remove_tree(storage.join(place, name) if name else str(tmp_path / f"staged-{IDENTITY[:16]}.json"))
    _, places = export.data_set("data", IDENTITY, 1, stager("again"))
    assert text_of(places) == ["again"]
    export.data_set("data", IDENTITY, 1, must_not_stage)


def test_fits_at_one_time_end_with_the_same_data(tmp_path):
    """All have staged before one publishes: what the first published is what all use, and nothing else stays."""
    all_staged, found = threading.Barrier(4, timeout=30), {}

    def fit(number):
        stage = stager(f"of {number}", before=all_staged.wait)
        found[number] = ExportDirectory(str(tmp_path)).data_set("data", IDENTITY, 1, stage)[1]

    threads = [threading.Thread(target=fit, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 4, "none was disturbed"
    _, (kept,) = ExportDirectory(str(tmp_path)).data_set("data", IDENTITY, 1, must_not_stage)
    for place in {place for (place,) in found.values()}:
        assert text_of([place])[0].startswith("of ")
    assert storage.join(str(tmp_path), f"staged-{IDENTITY[:16]}.json") in storage.list_files(tmp_path)
    assert kept in {place for (place,) in found.values()}
    assert not [name for name in names(tmp_path) if name.startswith("staging-")]


def test_a_fit_that_comes_second_uses_what_the_first_published(tmp_path):
    def other_fit():
        ExportDirectory(str(tmp_path)).data_set("data", IDENTITY, 1, stager("first"))

    _, places = ExportDirectory(str(tmp_path)).data_set("data", IDENTITY, 1, stager("second", before=other_fit))
    assert text_of(places) == ["first"]
    assert len(names(tmp_path)) == 2, "its own folder is gone"


def test_a_failure_leaves_nothing(tmp_path):
    def stage(places):
        raise RuntimeError("no rows")

    with pytest.raises(RuntimeError, match="no rows"):
        ExportDirectory(str(tmp_path)).data_set("data", IDENTITY, 2, stage)
    assert not names(tmp_path)


def note_of_a_fit(folder):
    """Return the note that a fit writes while it stages."""
    found = []

    def read():
        (note,) = folder.glob("staging-*.json")
        found.append(json.loads(note.read_text()))

    ExportDirectory(str(folder)).data_set("data", "", 1, stager("other", "", before=read))
    return found[0]


@pytest.mark.parametrize(("writer", "goes"), [("killed", True), ("alive", False), ("elsewhere", False)])
def test_what_a_killed_fit_left_goes_with_the_next(tmp_path, writer, goes):
    """Elsewhere may be a container that has the name of this host, where other numbers are those of processes."""
    note = note_of_a_fit(tmp_path)
    assert note["process"] == os.getpid()
    if writer != "alive":
        note["process"] = NO_PROCESS
    if writer == "elsewhere":
        note["host"] = f"{socket.gethostname()} pid:[1]"
    (tmp_path / "staged-left").mkdir()
    (tmp_path / "staged-left" / "part-00000.parquet").write_text("half")
    (tmp_path / "staging-left.json").write_text(json.dumps({**note, "folders": ["staged-left"]}))
    ExportDirectory(str(tmp_path)).data_set("data", IDENTITY, 1, stager("whole"))
    assert ("staged-left" not in names(tmp_path)) == goes
    assert ("staging-left.json" not in names(tmp_path)) == goes


def test_what_is_published_stands_in_no_note(tmp_path, monkeypatch):
    """Else a fit that is killed between the two would let the next one remove what others train on."""
    write = storage.write_json
    at_entry = []

    def watching(path, value):
        if "/staged-" in path and path.endswith(f"{IDENTITY[:16]}.json"):
            at_entry.append(list(tmp_path.glob("staging-*")))
        return write(path, value)

    monkeypatch.setattr(storage, "write_json", watching)
    ExportDirectory(str(tmp_path)).data_set("data", IDENTITY, 1, stager("whole"))
    assert at_entry == [[]]


@pytest.mark.parametrize("folders", [["../home"], ["staged-/../.."], ["manifest.json"], [], "staged-x", [3]])
def test_notes_and_entries_name_nothing_outside(tmp_path, folders):
    note = {"host": "any", "process": NO_PROCESS, "folders": folders}
    (tmp_path / "staging-left.json").write_text(json.dumps(note))
    with pytest.raises(StorageError, match=r"staging-left.json is damaged.*remove it"):
        ExportDirectory(str(tmp_path)).data_set("data", IDENTITY, 1, stager("whole"))
    (tmp_path / "staging-left.json").unlink()
    (tmp_path / f"staged-{IDENTITY[:16]}.json").write_text(json.dumps(note))
    _, places = ExportDirectory(str(tmp_path)).data_set("data", IDENTITY, 1, stager("whole"))
    assert text_of(places) == ["whole"]
