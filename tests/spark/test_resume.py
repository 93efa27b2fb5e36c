"""A fit on Spark whose worker is killed, or that was broken off: it ends with the weights of one that was not."""

import os
import signal
from pathlib import Path

import pytest

from contracts.table import make_master, make_network
from contracts.tensors import bits
from hvdspark import Checkpoint, SparkMultiLayer, TrainingHook, storage
from hvdspark.errors import ConfigurationError, RankFailed
from hvdspark.training.checkpoint import list_checkpoints

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(300)]


class Killing(TrainingHook):
    """Kills the worker of rank 1 in a step, once: the file tells that it has."""

    def __init__(self, step, file):
        self.step, self.file = step, str(file)

    def pre_update(self, moment):
        if (moment.rank, moment.step) == (1, self.step) and not Path(self.file).exists():
            Path(self.file).touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Breaking(TrainingHook):
    """Fails on rank 0 in a step."""

    def __init__(self, step):
        self.step = step

    def pre_update(self, moment):
        if (moment.rank, moment.step) == (0, self.step):
            raise KeyError("mine")


@pytest.fixture(scope="module")
def rows(table):
    return table.coalesce(1).sortWithinPartitions("id")


@pytest.fixture(scope="module")
def expected(spark, rows):
    return weights(fit(spark, rows))


def fit(spark, rows, *, resume=False, run_directory=None, epochs=3, **options):
    model = SparkMultiLayer(spark, make_network(), make_master(**options))
    return model.fit(rows, epochs=epochs, resume=resume, run_directory=run_directory)


def weights(result):
    return [bits(parameter) for parameter in result.network.module.parameters()]


@pytest.mark.parametrize("checkpoint", [Checkpoint(every_steps=5), None])
def test_a_killed_worker_costs_an_attempt_not_the_run(spark, rows, expected, tmp_path, caplog, checkpoint):
    hook = Killing(18, tmp_path / "killed")
    result = fit(
        spark, rows, run_directory=str(tmp_path / "run"), checkpoint=checkpoint, max_failures=1, training_hooks=(hook,)
    )
    assert (tmp_path / "killed").exists()
    assert weights(result) == expected
    assert [epoch["epoch"] for epoch in result.history] == [0, 1, 2]
    assert result.stats.ranks[0].steps == 39
    taken = None if checkpoint is None else "epoch-00001-step-000002"
    assert "was lost (" in caplog.text
    assert f"the ranks start again from {taken or 'the start'}" in caplog.text
    lines = storage.read_lines(tmp_path / "run" / "events" / "rank-00000.jsonl")
    (restart,) = [line for line in lines if line["kind"] == "restart"]
    assert (restart["checkpoint"], restart["failed_attempt"]) == (taken, 1)


def test_a_worker_that_is_killed_too_often_ends_the_fit(spark, rows, tmp_path):
    hook = Killing(2, tmp_path / "killed")
    with pytest.raises(RankFailed) as caught:
        fit(spark, rows, max_failures=0, training_hooks=(hook,))
    assert caught.value.__notes__ == ["max_failures=0: this was attempt 1, and the last"]


def test_a_fit_that_was_broken_off_goes_on(spark, rows, expected, tmp_path):
    options = {"run_directory": str(tmp_path / "run"), "checkpoint": Checkpoint()}
    with pytest.raises(ConfigurationError, match="no checkpoint in"):
        fit(spark, rows, resume=True, **options)
    with pytest.raises(RankFailed) as caught:
        fit(spark, rows, training_hooks=(Breaking(30),), **options)
    assert isinstance(caught.value.__cause__, KeyError)
    assert not [line for line in storage.list_files(tmp_path / "run", recursive=True) if "staged-" in line]
    with pytest.raises(ConfigurationError, match="resume=True"):
        fit(spark, rows, **options)
    unread = rows.selectExpr("features", "cast(raise_error('read') as int) as label")
    with pytest.raises(ConfigurationError, match="batch_size_per_worker was 16, it is 8"):  # before a row is read
        fit(spark, unread, resume=True, batch_size_per_worker=8, **options)
    assert list_checkpoints(tmp_path / "run") == ["epoch-00002-step-000000", "epoch-00001-step-000000"]
    result = fit(spark, rows, resume=True, **options)
    assert weights(result) == expected
    assert len(result.history) == 3
