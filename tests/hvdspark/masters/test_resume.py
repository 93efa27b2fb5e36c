"""What a run must have in common with the one that it goes on from."""

import dataclasses
import json

import pytest
import torch

from contracts.runs import make_network, stage_here
from hvdspark import Checkpoint, Network, ParameterAveragingTrainingMaster, SharedTrainingMaster
from hvdspark.errors import ConfigurationError
from hvdspark.masters.resume import (
    choose_seed,
    facts_of,
    facts_of_data,
    matching,
    refuse_old_checkpoints,
    require_checkpoints,
    weight_options,
)
from hvdspark.masters.staging import StagedData
from hvdspark.training import CheckpointManifest, find_checkpoints


def facts(directory, master=None, network=None, num_workers=2, seed=5, staged=None):
    master = master or SharedTrainingMaster(batch_size_per_worker=7)
    data = StagedData(str(staged or directory), None, ())
    options = weight_options(master, master.sharing())
    return {**facts_of(network or make_network(), num_workers, seed, options), **facts_of_data(data)}


def write(directory, epoch, step, told):
    manifest = CheckpointManifest(epoch=epoch, step=step, steps=9, size=2, facts=told, rules={}, checksums={})
    (directory / "checkpoints" / manifest.name).mkdir(parents=True)
    manifest.write(str(directory))
    return manifest


@pytest.fixture
def run(tmp_path):
    stage_here(tmp_path)
    write(tmp_path, 0, 4, facts(tmp_path))
    write(tmp_path, 1, 0, facts(tmp_path))
    return tmp_path


def shared(**options):
    return SharedTrainingMaster(**{"batch_size_per_worker": 7, **options})


def network_of(*layers):
    return Network(torch.nn.Sequential(*layers), torch.nn.CrossEntropyLoss(), torch.optim.SGD)


def wider():
    return network_of(*make_network().module[:3], torch.nn.Linear(16, 4))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_workers": 3}, "num_workers was 2, it is 3: each rank keeps back a residual of its own"),
        ({"seed": 6}, "rng_seed was 5, it is 6"),
        (
            {"network": wider()},
            r"network was '3.weight \[3, 16\] .*', it is '3.weight \[4, 16\] .*: give the network",
        ),
        ({"network": network_of(*make_network().module[:2])}, "it is 'not there': give the network"),
        ({"master": shared(batch_size_per_worker=8)}, "batch_size_per_worker was 7, it is 8"),
        ({"master": shared(local_steps=2)}, "local_steps was 1, it is 2"),
        ({"master": shared(buffers="local")}, "buffers was 'mean', it is 'local'"),
        ({"master": shared(shuffle=False)}, "shuffle was True, it is False"),
        ({"master": shared(drop_last=True)}, "drop_last was False, it is True"),
        ({"master": shared(residual_post_processor=None)}, r"residual_post_processor was \{.*\}, it is None"),
        ({"master": ParameterAveragingTrainingMaster(batch_size_per_worker=7)}, "training_master was 'SharedTraining"),
    ],
)
def test_another_run_is_refused_by_name_with_what_to_do(run, changes, words):
    with pytest.raises(ConfigurationError, match=words) as caught:
        matching(find_checkpoints(str(run)), facts(run, **changes), epochs=3)
    assert "epoch-00001-step-000000" in str(caught.value)
    assert "resume=False" in str(caught.value)


def test_other_rows_are_refused(run, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    stage_here(other, count=82)
    with pytest.raises(ConfigurationError, match=r"train was .*: the rows or their order are others"):
        matching(find_checkpoints(str(run)), facts(run, staged=other), epochs=3)


def test_options_that_leave_the_weights_alone_may_change(run):
    master = shared(num_workers=2, checkpoint=Checkpoint(), max_failures=9, worker_prefetch_num_batches=4)
    found = find_checkpoints(str(run))
    assert matching(found, facts(run, master), epochs=1) == found
    with pytest.raises(ConfigurationError, match="more than epochs=1 behind it"):
        matching((dataclasses.replace(found[0], step=1),), facts(run), epochs=1)


def test_the_checkpoint_of_another_run_is_passed_over(run, caplog):
    write(run, 2, 0, facts(run, num_workers=4))
    found = find_checkpoints(str(run))
    assert [each.epoch for each in found] == [2, 1, 0]
    assert [each.epoch for each in matching(found, facts(run), epochs=3)] == [1, 0]
    assert "epoch-00002-step-000000 is passed over: num_workers was 4, it is 2" in caplog.text


def test_facts_are_those_that_come_back_from_a_file(run):
    told = facts(run, shared(local_steps=((0, 1), (5, 3))))
    assert json.loads(json.dumps(told)) == told


def test_a_seed_that_was_drawn_is_taken_again(run):
    found = find_checkpoints(str(run))
    assert choose_seed(None, found) == 5
    assert choose_seed(8, found) == 8
    assert choose_seed(None, ()) != choose_seed(None, ())


def test_without_a_checkpoint_the_error_says_so(tmp_path):
    with pytest.raises(ConfigurationError, match=r"resume=True needs the run_directory"):
        require_checkpoints(None)
    with pytest.raises(ConfigurationError, match=r"there is no checkpoint in .*checkpoint=Checkpoint"):
        require_checkpoints(str(tmp_path / "nowhere"))
    manifest = write(tmp_path, 0, 4, {})
    folder = tmp_path / "checkpoints" / manifest.name
    (folder / "checkpoint.json").rename(folder / "weights.safetensors")
    with pytest.raises(ConfigurationError, match=r"no checkpoint in .*epoch-00000-step-000004 was never finished"):
        require_checkpoints(str(tmp_path))
    refuse_old_checkpoints(str(tmp_path))  # nothing is lost


def test_a_new_run_leaves_the_checkpoints_of_another_alone(run, tmp_path):
    with pytest.raises(ConfigurationError, match=r"holds checkpoints of an earlier run: go on .* resume=True"):
        refuse_old_checkpoints(str(run))
    refuse_old_checkpoints(str(tmp_path / "nowhere"))
    refuse_old_checkpoints(None)


@pytest.mark.parametrize("kind", [SharedTrainingMaster, ParameterAveragingTrainingMaster])
def test_options_of_masters_go_to_text_and_back(kind):
    master = kind(batch_size_per_worker=4, checkpoint=Checkpoint(every_steps=9), max_failures=0)
    assert kind.from_json(master.to_json()) == kind.from_yaml(master.to_yaml()) == master
    assert master.describe()["checkpoint"] == {"every_epochs": 1, "every_steps": 9, "keep": 2}
    for options, said in (({"checkpoint": 3}, "checkpoint"), ({"max_failures": -1}, "max_failures")):
        with pytest.raises(ConfigurationError, match=said):
            kind(batch_size_per_worker=4, **options)
