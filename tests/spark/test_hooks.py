"""Users' own code on every rank, and the options of the loop around it."""

import json
import math
from pathlib import Path

import pytest
import torch

from contracts.table import CLASSES, WIDTH, fit, make_master
from hvdspark import Network, SharedTrainingMaster, SparkMultiLayer, TrainingHook, TrainingListener
from hvdspark.errors import ConfigurationError
from hvdspark_launch import RankFailed

pytestmark = [pytest.mark.spark, pytest.mark.horovod, pytest.mark.timeout(300)]


class Diary:
    """Writes a line for each call, into a file a rank."""

    def __init__(self, directory):
        self._directory = str(directory)

    def _note(self, what, moment, **more):
        line = {"what": what, "epoch": moment.epoch, "step": moment.step, "size": moment.size, **more}
        with (Path(self._directory) / f"rank-{moment.rank}").open("a") as file:
            file.write(json.dumps(line) + "\n")


class Hook(Diary, TrainingHook):
    """Sees gradients before, and other weights after each update."""

    def pre_update(self, moment):
        first = next(moment.module.parameters())
        self._before = first.detach().clone()
        self._note("pre", moment, has_gradient=first.grad is not None, examples=moment.batch.examples)

    def post_update(self, moment):
        first = next(moment.module.parameters())
        self._note("post", moment, moved=not torch.equal(first.detach(), self._before))


class Listener(Diary, TrainingListener):
    """Hears of scores."""

    def on_epoch_start(self, moment):
        self._note("start", moment)

    def iteration_done(self, moment):
        self._note("done", moment, score=moment.score)

    def on_epoch_end(self, moment):
        self._note("end", moment, score=moment.score)


class Breaking(TrainingHook):
    """Fails on rank 1, in its third step."""

    def pre_update(self, moment):
        if moment.rank == 1 and moment.step == 2:
            raise KeyError("mine")


def test_hooks_and_listeners_run_on_every_rank(spark, table, tmp_path):
    master = make_master(listeners=(Listener(tmp_path),), debug_longer_iterations_ms=20).with_hooks(Hook(tmp_path))
    result = fit(spark, table, master=master, epochs=2)
    for rank in range(2):
        lines = [json.loads(line) for line in (tmp_path / f"rank-{rank}").read_text().splitlines()]
        steps = ["pre", "post", "done"] * 13
        assert [line["what"] for line in lines] == ["start", *steps, "end"] * 2
        assert [line["step"] for line in lines if line["what"] == "pre"] == list(range(26))
        assert {line["size"] for line in lines} == {2}
        assert all(line["has_gradient"] for line in lines if line["what"] == "pre" and line["examples"])
        assert any(line["moved"] for line in lines if line["what"] == "post")
        assert sum(line["examples"] for line in lines if line["what"] == "pre") == result.stats.ranks[rank].examples
        ends = [line["score"] for line in lines if line["what"] == "end"]
        assert ends == [epoch["score"] for epoch in result.history]
        assert all(0 < line["score"] < 5 for line in lines if line["what"] == "done" and not math.isnan(line["score"]))
    assert all(epoch["seconds"] > 13 * 0.02 for epoch in result.history), "each step sleeps 20 ms"
    assert result.stats.options["training_hooks"] == ["Hook"]


def test_a_hook_that_raises_is_told_with_rank_and_cause(spark, table):
    with pytest.raises(RankFailed, match="rank 1") as caught:
        fit(spark, table, master=make_master(training_hooks=(Breaking(),)))
    assert isinstance(caught.value.__cause__, KeyError)


def test_statistics_of_batches_are_averaged_or_left(spark, table):
    """With weights that stay, they depend on the rows alone: averaged, they are not those of rank 0."""

    def statistics(buffers):
        torch.manual_seed(3)
        module = torch.nn.Sequential(torch.nn.Linear(WIDTH, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, CLASSES))
        network = Network(module, torch.nn.CrossEntropyLoss(), lambda parameters: torch.optim.SGD(parameters, lr=0.0))
        master = make_master(buffers=buffers, batch_size_per_worker=40)
        model = SparkMultiLayer(spark, network, master)
        model.fit(table.coalesce(1).sortWithinPartitions("id"))
        return model.network.module[1].running_mean

    assert not torch.equal(statistics("mean"), statistics("local"))


def test_hooks_are_added_and_taken_away():
    one, two = TrainingHook(), TrainingHook()
    master = make_master().with_hooks(one, two)
    assert master.training_hooks == (one, two)
    assert master.without_hook(one).training_hooks == (two,)
    with pytest.raises(ConfigurationError, match="no such hook"):
        master.without_hook(TrainingHook())
    with pytest.raises(ConfigurationError, match="TrainingHook"):
        master.to_json()
    assert SharedTrainingMaster.from_json(make_master().to_json()) == make_master()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"training_hooks": ("print",)}, "training_hooks"),
        ({"listeners": (TrainingHook(),)}, "listeners"),
        ({"buffers": "none"}, "buffers"),
        ({"worker_periodic_gc_frequency_ms": 0}, "worker_periodic_gc_frequency_ms"),
        ({"worker_periodic_gc_frequency_ms": 9, "worker_toggle_periodic_gc": False}, "worker_periodic_gc_frequency_ms"),
        ({"debug_longer_iterations_ms": -1}, "debug_longer_iterations_ms"),
    ],
)
def test_what_cannot_act_is_refused_by_name(options, said):
    with pytest.raises(ConfigurationError, match=said):
        make_master(**options)
