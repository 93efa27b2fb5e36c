import numpy as np
import pytest

from hvdspark import storage
from hvdspark.data import (
    DataSet,
    FileBatch,
    MultiDataSet,
    create_file_batches,
    file_batches,
    list_paths,
    read_file_batch,
)
from hvdspark.data.sealed import write_sealed
from hvdspark.errors import ConfigurationError, DataError, StorageError, UnsupportedError


def make_files(folder, n):
    """Files of any bytes, an empty one among them."""
    paths = []
    for i in range(n):
        path = folder / f"{i % 3}" / f"{i:04d}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(np.random.default_rng(i).bytes(7 * i))
        paths.append(str(path))
    return paths


def unpacked(batches):
    return [pair for path in batches for pair in FileBatch.load(path)]


@pytest.mark.parametrize("n", [1, 31, 32, 33, 100])
def test_every_file_is_in_one_batch_with_its_path(tmp_path, n):
    files = make_files(tmp_path / "in", n)
    batches = create_file_batches(files, tmp_path / "out", 32)
    assert [len(FileBatch.load(path)) for path in batches] == [32] * (n // 32) + [n % 32] * (n % 32 > 0)
    assert unpacked(batches) == [(path, storage.read_bytes(path)) for path in files]
    assert sorted(batches) == list_paths(tmp_path / "out", recursive=True)


def test_urls(tmp_path):
    files = make_files(tmp_path, 3)
    for path in files:
        storage.write_bytes(f"memory://in{path}", storage.read_bytes(path))
    urls = [f"memory://in{path}" for path in files]
    batches = create_file_batches(urls, "memory://out", 2)
    assert all(path.startswith("memory://out/") for path in batches)
    assert unpacked(batches) == [(url, storage.read_bytes(url)) for url in urls]
    storage.remove_tree("memory://in")
    storage.remove_tree("memory://out")


def test_a_seed_mixes_the_files(tmp_path):
    files = make_files(tmp_path / "in", 40)
    orders = [
        [path for path, _ in unpacked(create_file_batches(given, tmp_path / f"{seed}{i}", 8, seed=seed))]
        for i, (seed, given) in enumerate([(1, files), (1, files[::-1]), (2, files)])
    ]
    assert sorted(orders[0]) == sorted(files)
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in [*orders, files]}) == 3


def test_batches_are_spread_over_folders(tmp_path, monkeypatch):
    monkeypatch.setattr(file_batches, "_FILES_PER_FOLDER", 4)  # instead of a thousand
    batches = create_file_batches(make_files(tmp_path / "in", 9), tmp_path / "out", 1)
    assert [len(list_paths(folder)) for folder in sorted((tmp_path / "out").iterdir())] == [4, 4, 1]
    assert [path for path, _ in unpacked(batches)] == make_files(tmp_path / "in", 9)


class TestReading:
    def batch(self, tmp_path):
        paths = []
        for name, text in [("cat/0.csv", "1,2\n3,4\n"), ("dog/1.csv", "5,6\n")]:
            (tmp_path / name).parent.mkdir()
            (tmp_path / name).write_text(text)
            paths.append(str(tmp_path / name))
        (path,) = create_file_batches(paths, tmp_path / "out", 8)
        return path

    def read(self, path, content):
        rows = np.array([line.split(",") for line in content.decode().split()], np.float32)
        return rows, np.full(len(rows), "dog" in path)

    def test_arrays(self, tmp_path):
        data = read_file_batch(self.batch(tmp_path), self.read)
        assert data == DataSet(np.array([[1, 2], [3, 4], [5, 6]], np.float32), np.array([False, False, True]))

    def test_an_array_alone_and_data_sets(self, tmp_path):
        path = self.batch(tmp_path)
        bare = read_file_batch(path, lambda *file: self.read(*file)[0])
        assert bare == DataSet(np.array([[1, 2], [3, 4], [5, 6]], np.float32))
        several = read_file_batch(path, lambda *file: MultiDataSet([self.read(*file)[0]]))
        assert several == MultiDataSet.of(bare)

    def test_what_a_reader_raises_names_the_file(self, tmp_path):
        def read(path, content):
            return self.read(path, content if "cat" in path else b"x")

        with pytest.raises(ValueError, match="could not convert") as caught:
            read_file_batch(self.batch(tmp_path), read)
        assert "dog/1.csv" in caught.value.__notes__[0]

    def test_what_is_no_array_names_the_file_too(self, tmp_path):
        with pytest.raises(UnsupportedError, match="not str") as caught:
            read_file_batch(self.batch(tmp_path), lambda path, content: path)
        assert "cat/0.csv" in caught.value.__notes__[0]


class TestDamage:
    def test_every_changed_bit_and_every_cut_is_found(self, tmp_path):
        path = tmp_path / "b"
        FileBatch(("a", "b/../c"), (b"12345", b"")).save(path)
        whole = path.read_bytes()
        for place in range(len(whole)):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << place % 8
            for changed in (bytes(flipped), whole[:place]):
                path.write_bytes(changed)
                with pytest.raises(StorageError, match=str(path)):
                    FileBatch.load(path)

    @pytest.mark.parametrize("ends", [[5, 4], [5, 6], [-1, 5], [], [3], [6, 5]])
    def test_ends_that_make_no_sense_are_refused_whatever_the_checksum_says(self, tmp_path, ends):
        parts = {"content": np.zeros(5, np.uint8), "ends": np.array(ends, np.int64)}
        write_sealed(tmp_path / "b", "FileBatch", parts, {"paths": ["a", "b"]})
        with pytest.raises((StorageError, DataError)):
            FileBatch.load(tmp_path / "b")

    def test_a_zip_is_no_batch(self, tmp_path):
        import zipfile

        with zipfile.ZipFile(tmp_path / "z", "w", zipfile.ZIP_DEFLATED) as file:
            file.writestr("../../out", b"0" * 10**6)
        with pytest.raises(StorageError, match="no whole safetensors file"):
            FileBatch.load(tmp_path / "z")

    def test_paths_in_a_batch_lead_nowhere(self, tmp_path):
        FileBatch(("../../evil", "/etc/passwd"), (b"1", b"2")).save(tmp_path / "b")
        before = sorted(tmp_path.rglob("*"))
        data = read_file_batch(tmp_path / "b", lambda path, content: np.frombuffer(content, np.uint8))
        assert data.features.tolist() == [ord("1"), ord("2")]
        assert sorted(tmp_path.rglob("*")) == before


class TestRefusals:
    def test_a_missing_file_is_named_and_nothing_is_left(self, tmp_path):
        files = [*make_files(tmp_path / "in", 5), str(tmp_path / "gone.bin")]
        with pytest.raises(StorageError, match=r"gone\.bin"):
            create_file_batches(files, tmp_path / "out", 2)
        assert not (tmp_path / "out").exists()
        (tmp_path / "out").mkdir()
        with pytest.raises(StorageError, match=r"gone\.bin"):
            create_file_batches(files, tmp_path / "out", 2)
        assert not list_paths(tmp_path / "out", recursive=True)

    def test_a_directory_with_something_in_it(self, tmp_path):
        files = make_files(tmp_path / "in", 2)
        with pytest.raises(StorageError, match="is not empty"):
            create_file_batches(files, tmp_path / "in", 2)
        assert list_paths(tmp_path / "in", recursive=True) == sorted(files)

    @pytest.mark.parametrize(
        ("files", "size", "error", "text"),
        [
            ([], 2, DataError, "no file to pack"),
            (["a"], 0, ConfigurationError, "batch_size"),
            (["a"], True, ConfigurationError, "batch_size"),
            ("a", 2, UnsupportedError, "a list of paths is needed, not 'a'"),
        ],
    )
    def test_arguments(self, tmp_path, files, size, error, text):
        with pytest.raises(error, match=text):
            create_file_batches(files, tmp_path / "out", size)
        assert not (tmp_path / "out").exists()


def test_list_paths_looks_at_the_names_of_files(tmp_path):
    for name in ["a.JPG", "b.png", "c.jpg/d.txt", "e.jpg/f.jpg", ".hidden.jpg", "gjpg"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = [each.removeprefix(f"{tmp_path}/") for each in list_paths(tmp_path, recursive=True, extensions=["jpg"])]
    assert found == ["a.JPG", "e.jpg/f.jpg"]
    assert len(list_paths(tmp_path, extensions=["jpg", ".png"])) == 2
    assert len(list_paths(tmp_path, recursive=True)) == 5
    with pytest.raises(ConfigurationError, match="a list is needed"):
        list_paths(tmp_path, extensions="jpg")
    assert list_paths(tmp_path / "not there") == []
