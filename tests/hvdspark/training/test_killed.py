"""Rank processes that are killed at some step: what they leave is whole, and the run goes on to the same weights."""

import os
import random
import signal
from pathlib import Path

import pytest
import torch

from contracts.processes import MARK, left_behind
from contracts.runs import EPOCHS, STEPS, Noise, make_job, make_network, sharing, stage_here
from hvdspark import Checkpoint, TrainingHook, storage
from hvdspark.masters.retries import run_to_the_end
from hvdspark.training import work
from hvdspark.training.worker import WEIGHTS_FILE
from hvdspark_launch import LocalLauncher

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


class Killing(TrainingHook):
    """Kills its process without a word, once: the file tells that it has."""

    def __init__(self, rank, step, file):
        self.rank, self.step, self.file = rank, step, str(file)

    def pre_update(self, moment):
        if (moment.rank, moment.step) == (self.rank, self.step) and not Path(self.file).exists():
            Path(self.file).touch()
            os.kill(os.getpid(), signal.SIGKILL)


def drawing_network():
    """A network whose forward draws random numbers, under a rate that changes at every step."""

    def by_step(optimizer):
        return torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)

    return make_network(None, Noise(), lr_scheduler=by_step, scheduler_interval="step")


@pytest.fixture
def launcher():
    mark = f"killed-{random.getrandbits(64):x}"
    yield LocalLauncher(env={MARK: mark, "OMP_NUM_THREADS": "1"}, stop_grace_s=2)
    assert not left_behind(mark)


def trained(job):
    return (storage.local_path(job.run_directory) / WEIGHTS_FILE).read_bytes()


@pytest.mark.parametrize("local_steps", [1, 4])
def test_the_driver_starts_the_ranks_again_from_the_last_checkpoint(tmp_path, launcher, caplog, local_steps):
    stage_here(tmp_path)
    seed = random.randrange(10**6)
    draw = random.Random(seed)
    rank, step = draw.randrange(2), draw.randrange(1, STEPS * EPOCHS)
    print(f"seed {seed}: rank {rank} is killed at step {step}")  # shown where the test fails
    options = {"network": drawing_network(), "sharing": sharing(local_steps=local_steps), "transport": "torch"}
    whole = make_job(tmp_path, tmp_path / "whole", **options)
    launcher.run(work, 2, args=(whole,))
    hook = Killing(rank, step, tmp_path / "killed")
    job = make_job(tmp_path, tmp_path / "run", checkpoint=Checkpoint(every_steps=2), hooks=(hook,), **options)
    reports = run_to_the_end(launcher, 2, job, 1, sleep=lambda seconds: None)
    assert trained(job) == trained(whole)
    assert [report.steps for report in reports] == [STEPS * EPOCHS] * 2
    assert f"rank {rank} on " in caplog.text
    assert "SIGKILL" in caplog.text
    lines = storage.read_lines(tmp_path / "run" / "events" / "rank-00000.jsonl")
    (restart,) = [line for line in lines if line["kind"] == "restart"]
    assert (restart["failed_rank"], restart["failed_attempt"]) == (rank, 1)
    assert restart["checkpoint"] is not None or step <= 2
    assert "SIGKILL" in restart["failed_cause"]
