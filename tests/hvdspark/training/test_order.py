"""Which examples ranks train on, and in which order: `shuffle` and `drop_last`; a last step of one row."""

import numpy as np
import pytest
import torch

from contracts.runs import make_job, resumed, run_here, stage_here
from contracts.table import WIDTH
from hvdspark import Checkpoint, Network, TrainingHook
from hvdspark.data import Manifest, StagedRowGroups
from hvdspark.errors import ModelError

COUNT, SIZE, BATCH = 83, 2, 7


class Recording(TrainingHook):
    """Notes the rows of each step by (step, rank); ranks that are threads share the notes."""

    notes: dict = {}  # noqa: RUF012

    def pre_update(self, moment):
        self.notes[moment.step, moment.rank] = moment.batch.features.numpy().copy()


def recorded(staged, run_directory, **options):
    """Return the rows of each step, ranks one behind the other, and the reports."""
    Recording.notes = {}
    outcome = run_here(make_job(staged, run_directory, hooks=(Recording(),), **options), SIZE)
    steps = {step for step, _ in Recording.notes}
    rows = [np.concatenate([Recording.notes[step, rank] for rank in range(SIZE)]) for step in sorted(steps)]
    return rows, [report for _, report in outcome]


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    directory = tmp_path_factory.mktemp("staged")
    stage_here(directory, COUNT)
    return directory


@pytest.fixture(scope="module")
def stored(staged):
    with StagedRowGroups(staged, Manifest.read(staged)).open() as reader:
        return np.concatenate([reader.group(group)[0] for group in range(len(Manifest.read(staged).rows_per_group))])


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("shuffle", [False, True])
def test_rows_come_as_the_options_say(staged, stored, tmp_path, shuffle, drop_last):
    rows, reports = recorded(staged, tmp_path, epochs=2, shuffle=shuffle, drop_last=drop_last)
    count = COUNT // (SIZE * BATCH) * SIZE * BATCH if drop_last else COUNT
    assert [len(each) for each in rows[: len(rows) // 2]] == [SIZE * BATCH] * (count // 14) + [13] * (not drop_last)
    epochs = [np.concatenate(rows[: len(rows) // 2]), np.concatenate(rows[len(rows) // 2 :])]
    for epoch in epochs:
        assert len(epoch) == count
        assert {row.tobytes() for row in epoch} <= {row.tobytes() for row in stored}
        assert np.array_equal(epoch, stored[:count]) != shuffle
    assert np.array_equal(*epochs) != shuffle
    assert sum(report.examples for report in reports) == 2 * count
    assert [epoch.get("dropped") for epoch in reports[0].history] == [COUNT - count if drop_last else None] * 2


def test_the_score_is_the_mean_over_the_rows_that_were_trained_on(staged, stored, tmp_path):
    """At a rate of nothing all steps see the same weights."""
    network = Network(torch.nn.Linear(WIDTH, 3), torch.nn.CrossEntropyLoss(), lambda own: torch.optim.SGD(own, lr=0.0))
    _, reports = recorded(staged, tmp_path, network=network, epochs=1, shuffle=False, drop_last=True)
    x = torch.from_numpy(stored[:70])
    expected = network.loss(network.module(x), x[:, :3].argmax(1)).item()
    assert reports[0].history[0]["score"] == pytest.approx(expected, rel=1e-5)


def test_whole_steps_go_on_from_a_checkpoint(staged, tmp_path):
    whole = run_here(make_job(staged, tmp_path / "whole", drop_last=True), SIZE)
    job = make_job(staged, tmp_path / "cut", drop_last=True, checkpoint=Checkpoint(every_steps=3), epochs=2)
    run_here(job, SIZE)
    assert [state for state, _ in run_here(resumed(job, epochs=3), SIZE)] == [state for state, _ in whole]


def test_batch_normalisation_of_one_row_is_explained(tmp_path):
    (tmp_path / "staged").mkdir()
    stage_here(tmp_path / "staged", SIZE * BATCH * 2 + 1)  # the last step has a row for rank 0 and none for rank 1
    with pytest.raises(ModelError, match=r"has one row on this rank.* train with drop_last=True"):
        run_here(make_job(tmp_path / "staged", tmp_path), SIZE)
    (_, report), _ = run_here(make_job(tmp_path / "staged", tmp_path / "dropped", drop_last=True, epochs=1), SIZE)
    assert report.history[0]["dropped"] == 1


def test_another_error_of_a_value_is_left_as_it_is(tmp_path):
    class Refusing(torch.nn.Module):
        def forward(self, x):
            raise ValueError(f"{len(x)} rows are not mine")

    (tmp_path / "staged").mkdir()
    stage_here(tmp_path / "staged", 1)
    module = torch.nn.Sequential(torch.nn.Linear(WIDTH, 3), Refusing())
    network = Network(module, torch.nn.CrossEntropyLoss(), lambda own: torch.optim.SGD(own, lr=0.1))
    with pytest.raises(ValueError, match="1 rows are not mine"):
        run_here(make_job(tmp_path / "staged", tmp_path, network=network), 1)
