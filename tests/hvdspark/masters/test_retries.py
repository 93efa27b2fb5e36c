"""Ranks that were lost are started again, at most so many times; what would come again is raised at once."""

import pytest

from contracts.runs import make_job
from hvdspark.errors import (
    ConfigurationError,
    DataError,
    EnvironmentMismatch,
    LaunchError,
    RankFailed,
    RankLost,
    StartTimeout,
    TooFewSlots,
)
from hvdspark.masters.retries import run_to_the_end
from hvdspark.training import CheckpointManifest
from hvdspark_launch import Launcher


class Failing(Launcher):
    """Fails as it is told, then succeeds; keeps the jobs that it was given."""

    def __init__(self, *errors):
        self.errors, self.jobs = list(errors), []

    def check(self, num_proc):
        pass

    def run(self, fn, num_proc, args=(), kwargs=None, rows=None):
        self.jobs.append(args[0])
        if self.errors:
            raise self.errors.pop(0)
        return ["report"] * num_proc


def failed(cause=None, summary="its process was killed by SIGKILL before fn returned", traceback=""):
    error = RankFailed(1, "host-7", summary, traceback)
    error.__cause__ = cause
    return error


def caused(error, cause):
    error.__cause__ = cause
    return error


LOST = {
    "killed": failed(),
    "a peer was lost": failed(RankLost("rank 0 is gone"), "RankLost: rank 0 is gone", "Traceback ..."),
    "the user's error has one behind it": failed(caused(KeyError("mine"), RankLost("gone")), "KeyError", "Traceback"),
}
FOR_GOOD = {
    "user": failed(KeyError("mine"), "KeyError: 'mine'", "Traceback (most recent call last) ..."),
    "refused": failed(ConfigurationError("no"), "ConfigurationError: no", "Traceback ..."),
    "data": failed(DataError("no"), "DataError: no", "Traceback ..."),
    "not carried": failed(None, "Odd: mine", "Traceback (most recent call last) ..."),
    "in Spark's words": failed(None, "PythonException: Traceback (most recent call last)\nImportError: no"),
    "another environment": EnvironmentMismatch("another Python"),
    "cancelled": LaunchError("the Spark job of the run failed: Job 3 cancelled"),
    "no room": TooFewSlots(2, 1, "ask for fewer"),
    "not started": StartTimeout("nobody came"),
}


@pytest.mark.parametrize("name", LOST)
def test_lost_ranks_are_started_again(tmp_path, caplog, name):
    launcher, waits = Failing(LOST[name], LOST[name]), []
    job = make_job(tmp_path, tmp_path)
    assert run_to_the_end(launcher, 2, job, 2, sleep=waits.append) == ["report"] * 2
    assert [each.failure and each.failure.attempt for each in launcher.jobs] == [None, 1, 2]
    assert launcher.jobs[2].failure.rank == 1
    assert launcher.jobs[2].failure.host == "host-7"
    assert waits == sorted(waits)
    assert len(waits) == len(set(waits)) == 2
    assert "attempt 2 of 3 ended, for rank 1 on host-7 was lost (" in caplog.text
    assert "start again from the start" in caplog.text


@pytest.mark.parametrize("name", FOR_GOOD)
def test_what_would_come_again_is_raised_at_once(tmp_path, name):
    launcher = Failing(FOR_GOOD[name])
    with pytest.raises(type(FOR_GOOD[name])) as caught:
        run_to_the_end(launcher, 2, make_job(tmp_path, tmp_path), 3, sleep=pytest.fail)
    assert caught.value is FOR_GOOD[name]
    assert len(launcher.jobs) == 1


@pytest.mark.parametrize("limit", [0, 2])
def test_the_limit_counts_and_is_told(tmp_path, limit):
    launcher = Failing(*[failed() for _ in range(5)])
    with pytest.raises(RankFailed, match="SIGKILL") as caught:
        run_to_the_end(launcher, 2, make_job(tmp_path, tmp_path), limit, sleep=lambda _: None)
    assert len(launcher.jobs) == limit + 1
    assert caught.value.__notes__ == [f"max_failures={limit}: this was attempt {limit + 1}, and the last"]


def test_a_host_that_is_not_back_yet_is_waited_for(tmp_path):
    launcher = Failing(failed(), TooFewSlots(2, 1, "ask for fewer"), StartTimeout("nobody came"))
    assert run_to_the_end(launcher, 2, make_job(tmp_path, tmp_path), 3, sleep=lambda _: None)
    assert [each.failure and each.failure.rank for each in launcher.jobs] == [None, 1, -1, -1]


def test_they_go_on_from_checkpoints_of_their_own_run_only(tmp_path, caplog):
    for epoch, facts in ((1, {"rng_seed": 5}), (2, {"rng_seed": 6})):
        manifest = CheckpointManifest(epoch=epoch, step=0, steps=9, size=2, facts=facts, rules={}, checksums={})
        (tmp_path / "checkpoints" / manifest.name).mkdir(parents=True)
        manifest.write(str(tmp_path))
    launcher = Failing(failed())
    run_to_the_end(launcher, 2, make_job(tmp_path, tmp_path, facts={"rng_seed": 5}), 1, sleep=lambda _: None)
    assert [each.epoch for each in launcher.jobs[1].resume] == [1]
    assert "start again from epoch-00001-step-000000" in caplog.text
