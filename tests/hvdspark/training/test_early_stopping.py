"""Early stopping: each condition ends training, all ranks in the same epoch, with the weights of the best one."""

import dataclasses
import functools
import math
from typing import ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.runs import Interrupting, make_job, make_network, resumed, run_here, stage_here
from contracts.tensors import bits
from hvdspark import EarlyStopping, TrainingListener
from hvdspark.errors import ConfigurationError, StorageError
from hvdspark.training import Checkpoint


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    directory = tmp_path_factory.mktemp("staged")
    stage_here(directory)
    return directory


def judged(scores, epochs=100, seconds=1.0, validated=False, **options):
    name = "validation_score" if validated else "score"
    history = [{"score": 9.0, "seconds": seconds, **({} if math.isinf(s) else {name: s})} for s in scores]
    return EarlyStopping(**options).judge(history, epochs)


class TestJudge:
    @pytest.mark.parametrize(
        ("scores", "options", "best", "reason"),
        [
            ([3, 2, 1], {}, 2, ""),
            ([3, 1, 2], {"patience": 2}, 1, ""),
            ([3, 1, 2, 1], {"patience": 2}, 1, "the score has not improved on 1 in 2 evaluations"),
            ([3, 1, 2, 0.5], {"patience": 2}, 3, ""),
            ([1, 2, 1.5], {"patience": 2, "mode": "max"}, 1, ""),
            ([1, 2, 1.5, 1.9], {"patience": 2, "mode": "max"}, 1, "has not improved on 2"),
            ([3, 2.9, 2.85], {"patience": 2, "min_delta": 0.2}, 0, "has not improved on 3"),
            ([3, 2.9, 2.7], {"patience": 2, "min_delta": 0.2}, 2, ""),
            ([3, 0.5], {"target_score": 0.5}, 1, "the score 0.5 has reached 0.5"),
            ([0.3, 0.9], {"target_score": 0.9, "mode": "max"}, 1, "has reached 0.9"),
            ([3, 5.5], {"worst_score": 5}, 0, "the score 5.5 is worse than 5"),
            ([3, 1], {"worst_score": 2, "mode": "max"}, 0, "the score 1 is worse than 2"),
            ([3, 2], {"max_time_s": 2}, 1, "training has taken 2 of 2 s"),
            ([3, 2], {"max_time_s": 2.5}, 1, ""),
            ([3, math.nan], {}, 0, "the score is nan"),
            ([5, 4, 3, 9, 3.5], {"evaluate_every": 2}, 1, ""),
            ([9, 4, 9, 5, 9, 6], {"evaluate_every": 2, "patience": 2}, 1, "has not improved on 4 in 2 evaluations"),
            ([9, 4, 0], {"evaluate_every": 2, "target_score": 1}, 1, ""),
        ],
    )
    def test_conditions(self, scores, options, best, reason):
        verdict = judged(scores, **options)
        assert verdict.best_epoch == best
        assert reason in verdict.reason
        assert bool(reason) == bool(verdict.reason)

    def test_the_last_epoch_is_always_evaluated(self):
        assert judged([5, 4, 3], epochs=3, evaluate_every=2).best_epoch == 2

    @pytest.mark.parametrize(("monitor", "best"), [("score", 1), ("validation_score", 1), ("training_score", 0)])
    def test_what_is_looked_at(self, monitor, best):
        assert judged([3, 2], validated=True, monitor=monitor).best_epoch == best

    @given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.integers(1, 4), st.integers(1, 3))
    @settings(max_examples=300, deadline=None)
    def test_it_ends_as_soon_as_patience_says_and_no_sooner(self, scores, patience, every):
        looked_at = [(n, s) for n, s in enumerate(scores) if (n + 1) % every == 0 or n + 1 == len(scores)]
        stop, best, waited = None, None, 0
        for epoch, score in looked_at:
            waited = 0 if best is None or score < best[1] else waited + 1
            best = (epoch, score) if waited == 0 else best
            if waited >= patience:
                stop = epoch
                break
        ends = (
            n
            for n in range(len(scores))
            if n in dict(looked_at)
            and judged(scores[: n + 1], len(scores), patience=patience, evaluate_every=every).reason
        )
        assert next(ends, None) == stop
        upto = len(scores) if stop is None else stop + 1
        assert judged(scores[:upto], len(scores), patience=patience, evaluate_every=every).best_epoch == best[0]


class Worsening(torch.optim.SGD):
    """Learns for two epochs, and then unlearns."""

    def __init__(self, params, worse_after):
        super().__init__(params, lr=0.1)
        self.left = worse_after

    def step(self, closure=None):
        self.left -= 1
        for group in self.param_groups:
            group["lr"] = 0.1 if self.left >= 0 else -5.0
        return super().step(closure)


class Snapshots(TrainingListener):
    """Keeps the weights after each epoch, on the rank that it runs on."""

    seen: ClassVar[dict[tuple[int, int], dict[str, torch.Tensor]]] = {}

    def on_epoch_end(self, moment):
        self.seen[moment.rank, moment.epoch] = {
            name: value.clone() for name, value in moment.module.state_dict().items()
        }


def job_for(staged, tmp_path, options, **more):
    network = make_network(functools.partial(Worsening, worse_after=12))
    return make_job(staged, tmp_path, network=network, early_stopping=options, epochs=6, **more)


def test_ranks_stop_together_with_the_weights_of_the_best_epoch(staged, tmp_path):
    job = job_for(staged, tmp_path, EarlyStopping(patience=2), listeners=(Snapshots(),))
    done = run_here(job)
    for rank, (state, report) in enumerate(done):
        assert report.best_epoch == 1
        assert len(report.history) == 4
        assert "has not improved" in report.stop_reason
        best, last = Snapshots.seen[rank, 1], Snapshots.seen[rank, 3]
        assert all(value == bits(best[name]) for name, value in state.items())
        assert not torch.equal(best["0.weight"], last["0.weight"])
    assert done[0][1].fingerprint == done[1][1].fingerprint
    assert not (tmp_path / "best").exists()


def test_without_a_reason_all_epochs_are_run_and_the_best_is_kept(staged, tmp_path):
    _, report = run_here(job_for(staged, tmp_path, EarlyStopping()))[0]
    assert (report.best_epoch, len(report.history), report.stop_reason) == (1, 6, "")


def test_validation_is_scored_only_when_it_is_due(staged, tmp_path):
    options = EarlyStopping(evaluate_every=2, monitor="validation_score", patience=1)
    job = job_for(staged, tmp_path, options, validation_directory=str(staged))
    _, report = run_here(job)[0]
    assert ["validation_score" in record for record in report.history] == [False, True, False, True]
    assert report.best_epoch == 1
    assert "validation score has not improved" in report.stop_reason


def test_time_is_told_by_rank_0(staged, tmp_path):
    reports = [r for _, r in run_here(job_for(staged, tmp_path, EarlyStopping(max_time_s=1e-6)))]
    assert [len(report.history) for report in reports] == [1, 1]
    assert all(report.stop_reason for report in reports)


@pytest.mark.parametrize("step", [9, 14, 20])
def test_a_run_that_goes_on_stops_where_it_would_have(staged, tmp_path, step):
    """Interrupted in the epoch before the best one was known, after it, and just before the end."""
    options = EarlyStopping(patience=2)
    whole = run_here(job_for(staged, tmp_path / "whole", options, checkpoint=Checkpoint()))
    job = job_for(staged, tmp_path / "cut", options, checkpoint=Checkpoint(), hooks=(Interrupting(step),))
    with pytest.raises(InterruptedError):
        run_here(job)
    on = dataclasses.replace(resumed(job), network=make_network(job.network.optimizer))
    on.network.optimizer.keywords["worse_after"] = 12 - 6 * (step // 6)  # of its own count nothing is kept
    again = run_here(on)
    for (state, report), (other, told) in zip(whole, again, strict=True):
        assert (report.best_epoch, report.stop_reason) == (told.best_epoch, told.stop_reason)
        assert state == other


def test_a_run_that_has_ended_goes_on_with_more_epochs_and_knows_the_best(staged, tmp_path):
    job = job_for(staged, tmp_path, EarlyStopping(), checkpoint=Checkpoint(), listeners=(Snapshots(),))
    run_here(dataclasses.replace(job, epochs=4))
    for state, report in run_here(resumed(job, epochs=6)):
        assert (report.best_epoch, len(report.history)) == (1, 6)
        assert state == {name: bits(value) for name, value in Snapshots.seen[0, 1].items()}
    assert [path.name for path in (tmp_path / "best").iterdir()] == ["epoch-00001.safetensors"]


@pytest.mark.parametrize("checkpoint", [Checkpoint(), Checkpoint(every_epochs=None, every_steps=4)])
def test_a_best_epoch_whose_weights_were_not_kept_is_refused_before_training(staged, tmp_path, checkpoint):
    """At the end of an epoch, and in the middle of one."""
    job = job_for(staged, tmp_path, None, checkpoint=checkpoint, hooks=(Interrupting(23),))
    with pytest.raises(InterruptedError):
        run_here(job)
    with pytest.raises(StorageError, match="weights of epoch 1, the best so far, were not kept"):
        run_here(resumed(job, early_stopping=EarlyStopping()))


def test_only_what_checkpoints_may_need_is_kept(staged, tmp_path):
    job = job_for(staged, tmp_path, EarlyStopping(), checkpoint=Checkpoint(keep=2), hooks=(Interrupting(32),))
    with pytest.raises(InterruptedError):
        run_here(job)
    assert [path.name for path in sorted((tmp_path / "best").iterdir())] == ["epoch-00001.safetensors"]


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"monitor": "loss"}, "EarlyStopping.monitor"),
        ({"mode": "least"}, "EarlyStopping.mode"),
        ({"patience": 0}, "EarlyStopping.patience"),
        ({"min_delta": -1}, "EarlyStopping.min_delta"),
        ({"evaluate_every": 0}, "EarlyStopping.evaluate_every"),
        ({"max_time_s": 0}, "EarlyStopping.max_time_s"),
        ({"target_score": math.nan}, "EarlyStopping.target_score"),
        ({"patients": 3}, "did you mean 'patience'"),
    ],
)
def test_what_cannot_be_meant_is_refused(options, text):
    with pytest.raises(ConfigurationError, match=text):
        EarlyStopping(**options)


def test_it_round_trips():
    options = EarlyStopping(monitor="training_score", mode="max", patience=3, max_time_s=5.0, target_score=0.9)
    assert EarlyStopping.from_yaml(options.to_yaml()) == options
