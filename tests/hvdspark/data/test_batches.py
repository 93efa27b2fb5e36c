import json
import threading

import numpy as np
import pytest
import torch

from contracts.plans import steps_of
from hvdspark import storage
from hvdspark.data import row_groups as row_groups_module
from hvdspark.data import stream as stream_module
from hvdspark.data.batches import Batches
from hvdspark.data.manifest import Manifest
from hvdspark.data.plan import EpochPlan
from hvdspark.data.row_groups import StagedRowGroups
from hvdspark.errors import ConfigurationError, StorageError


def readers():
    return [thread for thread in threading.enumerate() if thread.name.startswith("hvdspark-batches")]


@pytest.mark.parametrize("prefetch", [0, 1, 2, 5])
@pytest.mark.parametrize(("size", "batch_size"), [(1, 4), (3, 5), (4, 40)])
def test_batches_are_those_of_the_plan(staged, tmp_path, prefetch, size, batch_size):
    manifest = staged([13, 0, 20, 1, 8], rows_per_group=6)
    assert manifest.rows_per_group == (6, 6, 1, 6, 6, 6, 2, 1, 6, 2)
    starts = np.concatenate([[0], np.cumsum(manifest.rows_per_group)])
    plan = EpochPlan(manifest.rows_per_group, size, batch_size, seed=1, epoch=4)
    seen = []
    for rank in range(size):
        found = list(Batches(StagedRowGroups(tmp_path, manifest), plan, rank, prefetch=prefetch))
        assert [batch.step for batch in found] == list(range(plan.num_steps))
        for batch, rows in zip(found, steps_of(plan, rank), strict=True):
            expected = [starts[group] + row for group, row in rows]
            assert batch.labels.tolist() == expected
            assert batch.labels.dtype == torch.int64
            assert batch.features.dtype == torch.float32
            assert batch.features.tolist() == [[n, n + 0.125, n + 0.25] for n in expected]
            assert batch.examples == len(expected) == plan.examples(rank, batch.step)
            assert batch.total_examples == plan.total_examples(batch.step)
            seen += expected
    assert sorted(seen) == list(range(42))
    assert not readers()


def test_a_rank_without_rows_gets_empty_tensors_of_the_right_shape(staged, tmp_path):
    manifest = staged([2], label_width=5)
    plan = EpochPlan(manifest.rows_per_group, 3, 2, seed=0, epoch=0)
    (batch,) = Batches(StagedRowGroups(tmp_path, manifest), plan, 2)
    assert (batch.examples, batch.total_examples) == (0, 2)
    assert (batch.features.shape, batch.features.dtype) == ((0, 3), torch.float32)
    assert (batch.labels.shape, batch.labels.dtype) == ((0, 5), torch.float32)
    (batch,) = Batches(StagedRowGroups(tmp_path, manifest), plan, 0)
    assert batch.labels.shape == (1, 5)


def test_batches_belong_to_the_receiver(staged, tmp_path):
    manifest = staged([16])
    plan = EpochPlan(manifest.rows_per_group, 1, 4, seed=0, epoch=0)
    before = [batch.features.clone() for batch in Batches(StagedRowGroups(tmp_path, manifest), plan, 0)]
    for batch, expected in zip(Batches(StagedRowGroups(tmp_path, manifest), plan, 0), before, strict=True):
        assert torch.equal(batch.features, expected)
        batch.features.fill_(-1.0)  # must reach neither the cached row group nor a later batch


def test_an_iteration_can_start_in_the_middle(staged, tmp_path):
    manifest = staged([30])
    plan = EpochPlan(manifest.rows_per_group, 2, 4, seed=2, epoch=1)
    whole = [batch.labels.tolist() for batch in Batches(StagedRowGroups(tmp_path, manifest), plan, 1)]
    rest = Batches(StagedRowGroups(tmp_path, manifest), plan, 1, start_step=2)
    assert len(rest) == plan.num_steps - 2
    assert [batch.labels.tolist() for batch in rest] == whole[2:]
    assert list(Batches(StagedRowGroups(tmp_path, manifest), plan, 1, start_step=plan.num_steps)) == []


def test_stopping_early_ends_the_thread(staged, tmp_path):
    manifest = staged([40])
    plan = EpochPlan(manifest.rows_per_group, 1, 2, seed=0, epoch=0)
    for batch in Batches(StagedRowGroups(tmp_path, manifest), plan, 0, prefetch=3):
        assert len(readers()) == 1
        if batch.step == 1:
            break
    assert not readers()
    iterator = iter(Batches(StagedRowGroups(tmp_path, manifest), plan, 0))
    next(iterator)
    iterator.close()
    assert not readers()


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_file_that_changed_is_refused_by_name(staged, tmp_path, prefetch):
    manifest = staged([8, 8])
    path = tmp_path / "part-00001.parquet"
    data = bytearray(path.read_bytes())
    data[20] ^= 1
    path.write_bytes(data)
    plan = EpochPlan(manifest.rows_per_group, 1, 4, seed=0, epoch=0)
    with pytest.raises(StorageError, match=r"part-00001\.parquet has changed since it was staged"):
        list(Batches(StagedRowGroups(tmp_path, manifest), plan, 0, prefetch=prefetch))
    assert not readers()


def test_a_missing_file_is_named(staged, tmp_path):
    manifest = staged([8])
    (tmp_path / "part-00000.parquet").unlink()
    plan = EpochPlan(manifest.rows_per_group, 1, 4, seed=0, epoch=0)
    with pytest.raises(StorageError, match=r"part-00000\.parquet"):
        list(Batches(StagedRowGroups(tmp_path, manifest), plan, 0))
    assert not readers()


def test_a_file_is_checked_once_a_process(staged, tmp_path, monkeypatch):
    manifest = staged([8, 8])
    plan = EpochPlan(manifest.rows_per_group, 1, 4, seed=0, epoch=0)
    checked = []
    monkeypatch.setattr(row_groups_module.storage, "checksum", lambda path: checked.append(path) or checksum(path))
    for _ in range(2):
        list(Batches(StagedRowGroups(tmp_path, manifest), plan, 0))
    assert sorted(checked) == [str(tmp_path / file.name) for file in manifest.files]


checksum = storage.checksum


def test_urls_work(staged, tmp_path):
    manifest = staged([8, 5])
    for file in tmp_path.iterdir():
        storage.write_bytes(f"memory://staged/{file.name}", file.read_bytes())
    plan = EpochPlan(manifest.rows_per_group, 1, 4, seed=0, epoch=0)
    try:
        assert Manifest.read("memory://staged") == manifest
        remote = [batch.labels.tolist() for batch in Batches(StagedRowGroups("memory://staged", manifest), plan, 0)]
    finally:
        storage.remove_tree("memory://staged")
    assert remote == [batch.labels.tolist() for batch in Batches(StagedRowGroups(tmp_path, manifest), plan, 0)]
    assert remote == [
        batch.labels.tolist() for batch in Batches(StagedRowGroups(f"file://{tmp_path}", manifest), plan, 0)
    ]


def test_more_files_than_are_kept_open(staged, tmp_path):
    manifest = staged([3] * 12)
    plan = EpochPlan(manifest.rows_per_group, 1, 7, seed=0, epoch=0)
    rows = [n for batch in Batches(StagedRowGroups(tmp_path, manifest), plan, 0) for n in batch.labels.tolist()]
    assert sorted(rows) == list(range(36))


@pytest.mark.parametrize(
    ("options", "text"),
    [({"rank": 1}, "rank 1"), ({"start_step": 9}, "start_step"), ({"prefetch": -1}, "prefetch")],
)
def test_numbers_out_of_range_are_refused(staged, tmp_path, options, text):
    manifest = staged([8])
    plan = EpochPlan(manifest.rows_per_group, 1, 4, seed=0, epoch=0)
    with pytest.raises(ConfigurationError, match=text):
        Batches(StagedRowGroups(tmp_path, manifest), plan, **{"rank": 0, **options})


def test_a_plan_of_other_data_is_refused(staged, tmp_path):
    manifest = staged([8])
    with pytest.raises(ConfigurationError, match="not made from these row groups"):
        Batches(StagedRowGroups(tmp_path, manifest), EpochPlan((7,), 1, 4, seed=0, epoch=0), 0)


def test_a_block_of_the_ranks_own_rows_is_held_and_one_group(staged, tmp_path, monkeypatch):
    held, read = [], []
    decode, group = stream_module.RowStream._decode, row_groups_module._StagedReader.group

    def decoding(self, *block):
        decode(self, *block)
        held.append(self.num_bytes)

    monkeypatch.setattr(stream_module.RowStream, "_decode", decoding)
    monkeypatch.setattr(row_groups_module._StagedReader, "group", lambda self, n: read.append(n) or group(self, n))
    manifest = staged([8 * 70])  # 70 groups of 8 rows: blocks of 32, 32 and 6 groups
    plan = EpochPlan(manifest.rows_per_group, 4, 8, seed=0, epoch=0)
    list(Batches(StagedRowGroups(tmp_path, manifest), plan, 1))
    row_bytes = 3 * 4 + 8
    assert held == [32 * 8 * row_bytes // 4] * 3
    assert 32 < len(read) == len(set(read)) <= 70  # none twice; none that holds no row of this rank


@pytest.mark.parametrize("prefetch", [0, 3])
@pytest.mark.parametrize("stop", [1, 3, 8])
def test_a_state_goes_on_at_the_exact_batch(staged, tmp_path, prefetch, stop):
    manifest = staged([30])
    plan = EpochPlan(manifest.rows_per_group, 2, 2, seed=2, epoch=1)

    def batches():
        return Batches(StagedRowGroups(tmp_path, manifest), plan, 1, prefetch=prefetch)

    whole = [batch.labels.tolist() for batch in batches()]
    first, seen = batches(), []
    for batch in first:
        seen.append(batch.labels.tolist())
        if len(seen) == stop:
            break
    state = json.loads(json.dumps(first.state_dict()))
    assert state["step"] == first.step == stop  # what is read ahead was not handed out
    rest = batches()
    rest.load_state_dict(state)
    assert len(rest) == len(whole) - stop
    assert seen + [batch.labels.tolist() for batch in rest] == whole


def test_a_state_before_and_after_an_epoch(staged, tmp_path):
    manifest = staged([8])
    batches = Batches(StagedRowGroups(tmp_path, manifest), EpochPlan(manifest.rows_per_group, 1, 4, seed=0, epoch=0), 0)
    assert batches.state_dict()["step"] == 0
    list(batches)
    assert batches.state_dict()["step"] == 2
    assert len(list(batches)) == 2  # an iteration begins anew
    batches.load_state_dict(batches.state_dict())
    assert list(batches) == []


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"epoch": 1}, {"size": 2}, {"batch_size": 2}, {"shuffle": False}, {"drop_last": True}],
)
def test_a_state_of_another_order_is_refused_by_name(staged, tmp_path, change):
    manifest = staged([9])
    options = {"size": 1, "batch_size": 4, "seed": 0, "epoch": 0}
    groups = StagedRowGroups(tmp_path, manifest)
    state = Batches(groups, EpochPlan(manifest.rows_per_group, **options), 0).state_dict()
    other = Batches(groups, EpochPlan(manifest.rows_per_group, **{**options, **change}), 0)
    with pytest.raises(ConfigurationError, match=f"cannot go on from that state: {next(iter(change))} was"):
        other.load_state_dict(state)


@pytest.mark.skipif(torch.cuda.is_available(), reason="with CUDA memory can be pinned")
def test_memory_is_pinned_only_where_there_is_cuda(staged, tmp_path):
    manifest = staged([8])
    plan = EpochPlan(manifest.rows_per_group, 1, 4, seed=0, epoch=0)
    assert not any(batch.features.is_pinned() for batch in Batches(StagedRowGroups(tmp_path, manifest), plan, 0))
    with pytest.raises(ConfigurationError, match="pin_memory=True needs a CUDA device"):
        Batches(StagedRowGroups(tmp_path, manifest), plan, 0, pin_memory=True)
