"""Ranks that read partitions of their own: threads of this process, Arrow batches as Spark gives them."""

import copy
import dataclasses
import functools

import numpy as np
import pyarrow as pa
import pytest
import torch

from contracts.runs import AVERAGING, make_job
from contracts.table import CLASSES, WIDTH, make_network
from contracts.tensors import bits
from hvdspark import Checkpoint, Network, TrainingHook
from hvdspark.collectives import run_ranks
from hvdspark.data import PartitionReader
from hvdspark.data.columns import ColumnField, ColumnPlan
from hvdspark.errors import ConfigurationError, DataError, StorageError
from hvdspark.training import Failure, find_checkpoints, work_on_partition

pytestmark = pytest.mark.timeout(300)  # the first ranks may have to compile kernels

FIELDS = (ColumnField("feature", 0, ("x",), "array", "float32"), ColumnField("label", 0, ("y",), "scalar", "int64"))


def partitions(sizes, *, seed=0):
    """Batches of 5 rows for each rank; the first feature is the number of the row in all."""
    x = np.random.default_rng(seed).normal(size=(sum(sizes), WIDTH)).astype(np.float32)
    y = x[:, :CLASSES].argmax(1)
    x[:, 0] = np.arange(len(x))
    parts = []
    for rows in np.split(np.arange(len(x)), np.cumsum(sizes)[:-1]):
        cuts = [rows[start : start + 5] for start in range(0, len(rows), 5)]
        parts.append([batch(x[cut].tolist(), y[cut], cut % 4 == 0) for cut in cuts])
    return parts


def batch(features, labels, flags):
    arrays = [pa.array(features, pa.list_(pa.float32())), pa.array(labels), pa.array(np.array(flags, np.int64))]
    return pa.RecordBatch.from_arrays(arrays, ["hvdspark_feature_0", "hvdspark_label_0", "hvdspark_flag"])


def reader(flag=None):
    return PartitionReader(ColumnPlan(FIELDS, flag).rows, "the DataFrame", "column", flag is not None)


class Noting(TrainingHook):
    """Notes the numbers of the rows of each step, and of how many they were."""

    notes = None

    def pre_update(self, moment):
        ids = moment.batch.features[:, 0].int().tolist()
        self.notes.append((moment.epoch, moment.batch.step, moment.rank, ids, moment.batch.total_examples))


def run(tmp_path, parts, *, flag=None, **options):
    """Train; return each rank's weights and report, and what was noted."""
    job = make_job(None, tmp_path / "run", **{"reader": reader(flag), "network": make_network(), **options})
    notes = []

    def rank(world):
        own = dataclasses.replace(job, network=copy.deepcopy(job.network), hooks=(*job.hooks, noting))
        report = work_on_partition(iter(parts[world.rank]), own)
        return [bits(value) for value in own.network.module.parameters()], report

    noting = Noting()
    noting.notes = notes
    return run_ranks(rank, len(parts)), notes


@pytest.mark.parametrize("sharing", [None, AVERAGING])
@pytest.mark.parametrize("sizes", [(30, 30), (41, 3, 0), (1, 0)])
def test_each_row_once_an_epoch_in_the_same_steps_on_all_ranks(tmp_path, sizes, sharing):
    results, notes = run(tmp_path, partitions(sizes), **({} if sharing is None else {"sharing": sharing}))
    steps = -(-max(sizes) // 7)
    for epoch in range(3):
        mine = [note for note in notes if note[0] == epoch]
        assert sorted(row for note in mine for row in note[3]) == list(range(sum(sizes)))
        for rank in range(len(sizes)):
            assert [note[1] for note in mine if note[2] == rank] == list(range(steps))
        for step in range(steps):
            total = sum(len(note[3]) for note in mine if note[1] == step)
            assert {note[4] for note in mine if note[1] == step} == {total}
    assert all(weights == results[0][0] for weights, _ in results)
    assert [report.examples for _, report in results] == [3 * size for size in sizes]
    orders = [[row for note in notes if note[0] == epoch and note[2] == 0 for row in note[3]] for epoch in range(3)]
    assert sizes[0] == 1 or orders[0] != orders[1] != orders[2]


def test_rows_held_back_are_scored_as_one_mean_over_all_ranks(tmp_path):
    network = Network(
        torch.nn.Linear(WIDTH, CLASSES), torch.nn.CrossEntropyLoss(), functools.partial(torch.optim.SGD, lr=0.0)
    )
    parts = partitions((30, 4, 13))
    results, notes = run(tmp_path, parts, flag="held_back", network=network)
    assert sorted(note for each in notes if each[0] == 0 for note in each[3]) == [i for i in range(47) if i % 4]
    batches = [each for part in parts for each in part]
    x = torch.tensor([row for each in batches for row in each.column(0).to_pylist()])
    y = torch.tensor([row for each in batches for row in each.column(1).to_pylist()])
    with torch.no_grad():
        losses = torch.nn.functional.cross_entropy(network.module(x), y, reduction="none")
    held_back = torch.arange(47) % 4 == 0
    for _, report in results:
        assert report.history[0]["score"] == pytest.approx(losses[~held_back].mean().item(), rel=1e-5)
        assert report.history[0]["validation_score"] == pytest.approx(losses[held_back].mean().item(), rel=1e-5)


def refused(tmp_path, kind, parts, **options):
    with pytest.raises(kind) as caught:
        run(tmp_path, parts, **options)
    return str(caught.value)


def test_bad_rows_are_one_error_for_all(tmp_path):
    parts = partitions((10, 12))
    nan = batch([[float("nan")] * WIDTH, [1.0] * WIDTH], [0, 1], [0, 0])
    parts[0].append(nan)
    parts[1] = [nan, nan, *parts[1]]
    assert refused(tmp_path, DataError, parts).startswith(
        "column 'x' has NaN or infinity in 3 rows (1 in partition 0, 2 in partition 1; the first is row 10 of part"
    )
    wide = [partitions((10,))[0], [batch([[1.0] * 3], [0], [0])], []]
    assert "in 1 row (6 in partition 0, 3 in partition 1)" in refused(tmp_path, DataError, wide)
    assert refused(tmp_path, DataError, [[], []]).startswith("the DataFrame is empty: there is no row to train on")
    held_back = [[batch([[1.0] * WIDTH], [0], [1])], []]
    assert "never false: no row is left to train on" in refused(tmp_path, DataError, held_back, flag="v")


def test_a_folder_without_room_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("hvdspark.training.partition.spill_folder", lambda rank: str(tmp_path / f"gone-{rank}"))
    text = refused(tmp_path, StorageError, partitions((10, 12)))
    assert "partition 0 was not written" in text
    assert "gone-0" in text


class Breaking(TrainingHook):
    """Fails on rank 0 in a step, counted over all epochs."""

    def pre_update(self, moment):
        if (moment.rank, moment.step) == (0, 9):
            raise KeyError("mine")


def test_a_run_that_was_broken_off_goes_on_to_the_same_weights(tmp_path):
    parts, checkpoint = partitions((41, 3, 20)), Checkpoint(every_steps=4)
    (tmp_path / "whole").mkdir()
    expected, _ = run(tmp_path / "whole", parts)
    with pytest.raises(KeyError, match="mine"):
        run(tmp_path, parts, hooks=(Breaking(),), checkpoint=checkpoint)
    found = find_checkpoints(tmp_path / "run")
    assert [rows for rows, _ in found[0].facts["train"]] == [41, 3, 20]
    network = make_network()
    with torch.no_grad():
        for parameter in network.module.parameters():
            parameter.add_(1.0)
    results, notes = run(tmp_path, parts, resume=found, checkpoint=checkpoint, network=network)
    assert [weights for weights, _ in results] == [weights for weights, _ in expected]
    assert min(note[:2] for note in notes) == (1, 2)  # six steps an epoch; eight were saved


def test_other_rows_are_not_gone_on_from(tmp_path, caplog):
    checkpoint = Checkpoint(every_epochs=1)
    run(tmp_path, partitions((20, 10)), checkpoint=checkpoint, epochs=2)
    found = find_checkpoints(tmp_path / "run")
    for other in (partitions((10, 20)), [part[::-1] for part in partitions((20, 10))], partitions((20, 10), seed=1)):
        text = refused(tmp_path, ConfigurationError, other, resume=found, checkpoint=checkpoint)
        assert "resume=True cannot go on from epoch-00002" in text
        assert "other rows than before" in text
    # Where ranks were lost, and Spark has computed other partitions than before, all begin again.
    lost = Failure(attempt=1, rank=1, host="here", cause="killed")
    results, notes = run(tmp_path, partitions((10, 20)), resume=found, failure=lost, epochs=2)
    assert "the ranks start from the start" in caplog.text
    assert min(note[0] for note in notes) == 0
    assert [each["epoch"] for each in results[0][1].history] == [0, 1]
