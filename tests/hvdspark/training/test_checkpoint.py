"""An interrupted run goes on from its last whole checkpoint to the weights that it would have come to, bit for bit."""

import dataclasses
import functools
import json
import shutil
import threading
from pathlib import Path

import fsspec
import pytest
import torch

from contracts.runs import (
    AVERAGING,
    EPOCHS,
    STEPS,
    Interrupting,
    Noise,
    make_job,
    make_network,
    resumed,
    sharing,
    stage_here,
)
from contracts.runs import run_here as run
from hvdspark import Checkpoint, Nesterov, storage
from hvdspark.errors import ConfigurationError, HvdsparkError, StorageError, UnsupportedError
from hvdspark.sync import DEFAULT_THRESHOLD_ALGORITHM
from hvdspark.training import CheckpointManifest, find_checkpoints
from hvdspark.training.checkpoint import list_checkpoints

pytestmark = pytest.mark.timeout(300)

ADAM = functools.partial(torch.optim.Adam, lr=0.01)
BY_STEP = {
    "lr_scheduler": functools.partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=20),
    "scheduler_interval": "step",
}
BY_SCORE = {"lr_scheduler": functools.partial(torch.optim.lr_scheduler.ReduceLROnPlateau, patience=0, threshold=0.5)}


RUNS = {
    "codec": {},
    "one rank": {"size": 1},
    "random numbers": {"size": 1, "network": make_network(None, Noise())},
    "adam": {"network": make_network(ADAM)},
    "steps of the scheduler": {"network": make_network(**BY_STEP)},
    "scheduler by score": {"network": make_network(**BY_SCORE)},
    "local steps": {"sharing": sharing(local_steps=4)},
    "lookahead": {"sharing": sharing(local_steps=4, residual_lookahead=0.3)},
    "outer": {"sharing": sharing(local_steps=4, outer_optimizer=Nesterov(0.7, 0.5))},
    "late": {"sharing": sharing(overlap="next_step")},
    "gradients": {"sharing": sharing(encode="gradients")},
    "dense": {"sharing": sharing(exchange="dense", threshold_algorithm=DEFAULT_THRESHOLD_ALGORITHM)},
    "regions": {"sharing": sharing(exchange="regions")},
    "averaging": {"sharing": AVERAGING, "network": make_network(ADAM)},
    "own statistics": {"buffers": "local"},
}


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    directory = tmp_path_factory.mktemp("staged")
    stage_here(directory)
    return directory


@pytest.fixture(scope="module")
def expected(staged, tmp_path_factory):
    """The outcome of a run that nothing interrupts, and which takes no checkpoints."""
    known = {}

    def get(name="codec"):
        if name not in known:
            options = dict(RUNS[name])
            size = options.pop("size", 2)
            known[name] = run(make_job(staged, tmp_path_factory.mktemp("whole"), **options), size)
        return known[name]

    return get


def interrupted(job, size=2):
    with pytest.raises((InterruptedError, HvdsparkError)):
        run(job, size)


def check_same(outcome, expected):
    for (state, report), (other, whole) in zip(outcome, expected, strict=True):
        assert state == other
        assert [{**epoch, "seconds": 0} for epoch in report.history] == [
            {**epoch, "seconds": 0} for epoch in whole.history
        ]
        counts = ("steps", "exchanges", "examples", "bytes_sent", "fingerprint", "density", "threshold")
        assert [getattr(report, name) for name in counts] == [getattr(whole, name) for name in counts]


@pytest.mark.parametrize("at", [5, 6, 9, 13])
@pytest.mark.parametrize("name", RUNS)
def test_the_weights_are_those_of_the_run_that_nothing_interrupts(staged, expected, tmp_path, name, at):
    """At the end, the start and the middle of an epoch, and of the periods of local steps."""
    options = dict(RUNS[name])
    size = options.pop("size", 2)
    steps = STEPS * EPOCHS * (2 if size == 1 else 1)
    at = at * (2 if size == 1 else 1)
    assert expected(name)[0][1].steps == steps
    job = make_job(staged, tmp_path, checkpoint=Checkpoint(every_steps=3), hooks=(Interrupting(at),), **options)
    interrupted(job, size)
    found = find_checkpoints(tmp_path)
    assert found[0].steps == at // 3 * 3 or (found[0].step == 0 and found[0].steps <= at)
    check_same(run(resumed(job), size), expected(name))


def test_hosts_that_encode_once_go_on(staged, tmp_path):
    """Ranks that only hand theirs to the first of their host have no residual, and a state all the same."""
    options = {"sharing": sharing(topology="hosts"), "batch_size": 3}
    whole = run(make_job(staged, tmp_path / "whole", **options), 4, ranks_per_host=2)
    job = make_job(staged, tmp_path, checkpoint=Checkpoint(every_steps=2), hooks=(Interrupting(9),), **options)
    with pytest.raises((InterruptedError, HvdsparkError)):
        run(job, 4, ranks_per_host=2)
    outcome = run(resumed(job), 4, ranks_per_host=2)
    assert [state for state, _ in outcome] == [state for state, _ in whole]
    assert [(each.steps, each.bytes_sent) for _, each in outcome] == [
        (each.steps, each.bytes_sent) for _, each in whole
    ]


@pytest.mark.parametrize("at", [5, 16])
def test_the_choice_among_exchanges_goes_on(staged, tmp_path, at):
    """Before it is made, and after; it goes by time, so the weights may be others."""
    job = make_job(
        staged,
        tmp_path,
        sharing=sharing(exchange="auto"),
        checkpoint=Checkpoint(every_steps=2),
        hooks=(Interrupting(at),),
    )
    interrupted(job)
    (one, report), (other, _) = run(resumed(job))
    assert one["0.weight"] == other["0.weight"]
    assert report.steps == report.exchanges == STEPS * EPOCHS


def test_a_checkpoint_is_taken_when_it_is_due_and_the_last_are_kept(staged, tmp_path):
    def left(**options):
        shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
        run(make_job(staged, tmp_path, checkpoint=Checkpoint(**options)))
        return [(each.epoch, each.step, each.steps) for each in find_checkpoints(tmp_path)]

    assert left(keep=9) == [(3, 0, 18), (2, 0, 12), (1, 0, 6)]
    assert left(every_epochs=2, keep=9) == [(2, 0, 12)]
    assert left(every_epochs=None, every_steps=5, keep=9) == [(2, 3, 15), (1, 4, 10), (0, 5, 5)]
    assert left() == [(3, 0, 18), (2, 0, 12)]
    assert left(keep=1) == [(3, 0, 18)]
    assert list_checkpoints(tmp_path) == ["epoch-00003-step-000000"]


def test_a_run_that_had_ended_is_told_again_and_can_train_longer(staged, expected, tmp_path):
    job = make_job(staged, tmp_path, checkpoint=Checkpoint(), epochs=1)
    first = run(job)
    check_same(run(resumed(job)), first)
    check_same(run(resumed(job, epochs=EPOCHS)), expected())


# ---- damage ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def broken_off(staged, tmp_path_factory):
    """A run that ended in its third epoch, with two checkpoints."""
    directory = tmp_path_factory.mktemp("broken")
    job = make_job(staged, directory, checkpoint=Checkpoint(), hooks=(Interrupting(2 * STEPS + 1),))
    interrupted(job)
    return job


def copied(job, directory):
    shutil.copytree(Path(job.run_directory) / "checkpoints", directory / "checkpoints")
    return dataclasses.replace(job, run_directory=str(directory))


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) * 2 // 3] ^= 4
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-3])


DAMAGES = {"flipped": flip, "cut": cut, "empty": lambda path: path.write_bytes(b""), "gone": Path.unlink}
FILES = ["checkpoint.json", "weights.safetensors", "rank-00000.safetensors", "rank-00001.safetensors"]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("file", FILES)
def test_a_damaged_one_is_passed_over_for_the_one_before_it(broken_off, expected, tmp_path, caplog, file, damage):
    job = copied(broken_off, tmp_path)
    folder = tmp_path / "checkpoints" / "epoch-00002-step-000000"
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    DAMAGES[damage](folder / file)
    outcome = run(resumed(job))
    assert "epoch-00002-step-000000" in caplog.text
    check_same(outcome, expected())
    lines = [json.loads(line) for line in (tmp_path / "events" / "rank-00000.jsonl").read_text().splitlines()]
    assert [line["checkpoint"] for line in lines if line["kind"] == "restart"] == ["epoch-00001-step-000000"]
    assert [each.name for each in find_checkpoints(tmp_path)] == ["epoch-00003-step-000000", "epoch-00002-step-000000"]


def test_every_bit_of_a_manifest_counts(broken_off, tmp_path):
    copied(broken_off, tmp_path)
    name = "epoch-00002-step-000000"
    path = tmp_path / "checkpoints" / name / "checkpoint.json"
    whole = path.read_bytes()
    told = CheckpointManifest.read(tmp_path, name)
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert CheckpointManifest.read(tmp_path, name) == told  # white space, at most
        except StorageError:
            continue
        assert whole[place : place + 1].isspace()


def test_files_of_another_checkpoint_are_not_taken(broken_off, expected, tmp_path):
    job = copied(broken_off, tmp_path)
    old, new = (tmp_path / "checkpoints" / f"epoch-0000{epoch}-step-000000" for epoch in (1, 2))
    shutil.copy(old / "rank-00001.safetensors", new)
    shutil.copytree(old, tmp_path / "checkpoints" / "epoch-00007-step-000000")
    assert [each.epoch for each in find_checkpoints(tmp_path)] == [2, 1]
    check_same(run(resumed(job)), expected())


def test_without_a_whole_one_the_error_says_what_is_wrong_with_each(broken_off, tmp_path):
    job = copied(broken_off, tmp_path)
    for epoch, rank in ((1, 0), (2, 1)):
        flip(tmp_path / "checkpoints" / f"epoch-0000{epoch}-step-000000" / f"rank-0000{rank}.safetensors")
    with pytest.raises(StorageError, match=r"epoch-00002.*rank 1: .*SHA-256.*epoch-00001.*rank 0: .*Train anew"):
        run(resumed(job))
    for name in list_checkpoints(tmp_path):
        cut(tmp_path / "checkpoints" / name / "checkpoint.json")
        flip(tmp_path / "checkpoints" / name / "checkpoint.json")
    with pytest.raises(StorageError, match=r"no whole checkpoint: .*epoch-00002-step-000000/.*epoch-00001-"):
        find_checkpoints(tmp_path)


def test_what_was_never_finished_is_no_checkpoint(broken_off, tmp_path):
    """Neither to go on from, nor among those that are kept."""
    job = copied(broken_off, tmp_path)
    unfinished = "epoch-00002-step-000003"
    (tmp_path / "checkpoints" / unfinished).mkdir()
    shutil.copy(tmp_path / "checkpoints" / "epoch-00002-step-000000" / FILES[1], tmp_path / "checkpoints" / unfinished)
    assert list_checkpoints(tmp_path, unfinished=True)[0] == unfinished
    assert [each.name for each in find_checkpoints(tmp_path)] == ["epoch-00002-step-000000", "epoch-00001-step-000000"]
    run(resumed(job))
    assert list_checkpoints(tmp_path, unfinished=True) == ["epoch-00003-step-000000", "epoch-00002-step-000000"]


class Crash(Exception):
    """Ends a rank at some operation on files."""


def crashing(patch, at):
    """Let the operation of this number fail, before anything of it is done, and all that come after it."""
    count, lock = [0], threading.Lock()

    def counted(operation):
        def call(*args, **options):
            with lock:
                count[0] += 1
                if count[0] > at:
                    raise Crash
            return operation(*args, **options)

        return call

    for owner, name in ((storage.AtomicWriter, "commit"), (storage, "make_folder"), (storage, "remove_tree")):
        patch.setattr(owner, name, counted(getattr(owner, name)))
    return count


def test_a_run_may_end_at_every_operation_on_files(staged, tmp_path, monkeypatch):
    """What it leaves is the checkpoint before or the new one; and the run goes on from it to the same weights."""
    options = {"checkpoint": Checkpoint(keep=1), "epochs": 2}
    with monkeypatch.context() as patch:
        count = crashing(patch, 10**6)
        whole = run(make_job(staged, tmp_path / "whole", **options))
    assert count[0] >= 17  # two checkpoints of two folders and four files, one removal, the weights; folders twice
    for at in range(count[0]):
        job = make_job(staged, tmp_path / str(at), **options)
        with monkeypatch.context() as patch:
            crashing(patch, at)
            with pytest.raises((Crash, HvdsparkError)):
                run(job)
        left = find_checkpoints(job.run_directory)
        assert [each.epoch for each in left] in ([], [1], [2], [2, 1]), at
        from_the_start = {} if left else {"network": job.network}
        check_same(run(resumed(job, **from_the_start)), whole)
        if not left or left[0].epoch < 2:  # else nothing was saved any more, and so nothing removed
            assert list_checkpoints(job.run_directory, unfinished=True) == ["epoch-00002-step-000000"], at


def test_checkpoints_lie_at_urls_too(staged, expected):
    fsspec.filesystem("memory").store.clear()
    job = make_job(staged, "memory://runs/one", checkpoint=Checkpoint(every_steps=4), hooks=(Interrupting(9),))
    interrupted(job)
    assert [each.steps for each in find_checkpoints("memory://runs/one")] == [8, 6]
    check_same(run(resumed(job)), expected())


# ---- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (make_network(functools.partial(torch.optim.SGD, lr=0.2, momentum=0.9)), "optimizer: lr = 0.1, here it is 0.2"),
        (make_network(ADAM), "optimizer: "),
        (make_network(**BY_STEP), "lr_scheduler = None, here it is CosineAnnealingLR"),
    ],
)
def test_another_optimizer_is_refused_not_overruled(broken_off, tmp_path, network, words):
    job = copied(broken_off, tmp_path)
    with pytest.raises(ConfigurationError, match=words):
        run(resumed(job, network=network))


def test_an_optimizer_whose_state_cannot_be_kept_is_named(staged, tmp_path):
    class Odd(torch.optim.SGD):
        def step(self, closure=None):
            for group in self.param_groups:
                for parameter in group["params"]:
                    self.state[parameter]["odd"] = object()
            return super().step(closure)

    network = make_network(functools.partial(Odd, lr=0.1))
    with pytest.raises(UnsupportedError, match=r"checkpoint\['synchroniser'\]\['optimizer'\].*\['odd'\] is a"):
        run(make_job(staged, tmp_path, checkpoint=Checkpoint(), network=network), 1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"every_epochs": 0}, "every_epochs"),
        ({"every_steps": -1}, "every_steps"),
        ({"keep": 0}, "keep"),
        ({"every_epochs": None}, "every_epochs and every_steps are both None"),
        ({"every": 3}, "no option 'every'"),
    ],
)
def test_options_that_cannot_act_are_refused_by_name(options, said):
    with pytest.raises(ConfigurationError, match=said):
        Checkpoint(**options)


def test_options_go_to_text_and_back():
    made = Checkpoint(every_epochs=None, every_steps=50, keep=3)
    assert Checkpoint.from_json(made.to_json()) == Checkpoint.from_yaml(made.to_yaml()) == made
