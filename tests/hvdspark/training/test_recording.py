"""What ranks record of their phases: nothing unless told to, and whatever happens nothing damaged."""

import itertools
import json

import fsspec
import numpy as np
import pytest
import torch

from contracts.runs import AVERAGING, EPOCHS, STEPS, Interrupting, make_job, resumed, run_here, sharing, stage_here
from contracts.table import CLASSES, WIDTH
from hvdspark import Network
from hvdspark.stats import DriverTimes, read_traces
from hvdspark.sync.phases import Phases
from hvdspark.training import Checkpoint


@pytest.fixture(scope="module")
def staged(tmp_path_factory):
    directory = tmp_path_factory.mktemp("staged")
    stage_here(directory)
    return directory


def traces_of(run_directory, size=2):
    return read_traces(str(run_directory), size, DriverTimes())[0]


@pytest.mark.parametrize("way", [sharing(), AVERAGING, sharing(overlap="next_step")])
def test_every_phase_is_recorded_on_one_clock(staged, tmp_path, way):
    job = make_job(staged, tmp_path, sharing=way, collect_stats=True, validation_directory=str(staged))
    reports = [report for _, report in run_here(job)]
    traces = traces_of(tmp_path)
    for trace, report in zip(traces, reports, strict=True):
        assert trace.steps == report.steps == EPOCHS * STEPS
        counts = {name: count for name, (count, _, _) in trace.totals.items()}
        assert counts["step"] == counts["forward_backward"] == EPOCHS * STEPS
        assert counts["load"] == EPOCHS * (STEPS + 1), "and once an epoch to hear that there is no more"
        assert counts["validate"] == counts["epoch_end"] == EPOCHS
        for name, seconds in report.seconds.items():
            assert trace.seconds(name) == pytest.approx(seconds, abs=1e-6), name
        tracks = {trace.names[name]: track for name, track in trace.spans[["name", "track"]].tolist()}
        under_way = way == sharing(overlap="next_step")
        assert set(tracks.values()) == ({0, 1} if under_way else {0})
        assert tracks.get("decode", 0) == (1 if under_way else 0)
        for track in set(tracks.values()):
            _check_nesting(trace.spans[trace.spans["track"] == track])
        # These ranks are threads of one process, whose clocks are one: nothing is off by more than is said.
        assert 0 <= trace.uncertainty_s < 5
    # No rank is done with its last exchange before all are in it.
    assert traces[1].uncertainty_s > 0
    first, second = (trace.named("epoch_end") for trace in traces)
    slack = traces[1].uncertainty_s * 2e9
    assert (first["end"] + slack >= second["begin"]).all()
    assert (second["end"] + slack >= first["begin"]).all()


def _check_nesting(spans):
    around = []
    for begin, end in spans[["begin", "end"]].tolist():
        while around and around[-1] <= begin:
            around.pop()
        assert not around or end <= around[-1]
        around.append(end)


def test_clocks_of_one_process_are_found_equal_within_what_is_said(staged, tmp_path):
    run_here(make_job(staged, tmp_path, collect_stats=True, epochs=1), size=3)
    for rank in range(3):
        head = json.loads((tmp_path / "phases" / f"rank-{rank:05d}.jsonl").read_text().partition("\n")[0])
        wall = json.loads((tmp_path / "phases" / "rank-00000.jsonl").read_text().partition("\n")[0])["to_wall_s"]
        # rank 0 reads its two clocks one after the other, so that its own sum moves by microseconds
        assert np.abs(np.subtract(head["to_wall_s"], wall)).max() <= head["uncertainty_s"] + 1e-3


def test_without_the_option_nothing_is_recorded_(staged, tmp_path):
    (_, report), _ = run_here(make_job(staged, tmp_path, epochs=1))
    assert not (tmp_path / "phases").exists()
    assert "load" in report.seconds


def test_who_watches_is_told_what_is_counted():
    told = []
    phases = Phases()
    phases.watch(lambda *facts: told.append(facts))
    with phases.timed("x"):
        pass
    ((name, begin, end),) = told
    assert name == "x"
    assert phases.seconds["x"] == end - begin


def test_weights_and_bytes_are_those_of_a_run_without(staged, tmp_path):
    plain, watched = (
        run_here(make_job(staged, tmp_path / str(on), collect_stats=on, epochs=1)) for on in (False, True)
    )
    for (state, report), (other, told) in zip(plain, watched, strict=True):
        assert all(np.array_equal(state[name], other[name]) for name in state)
        assert report.bytes_sent == told.bytes_sent


def test_a_rank_without_rows_records_too(tmp_path):
    (tmp_path / "rows").mkdir()
    stage_here(tmp_path / "rows", count=2)  # none for the third rank
    plain = Network(torch.nn.Linear(WIDTH, CLASSES), torch.nn.CrossEntropyLoss(), torch.optim.SGD)
    run_here(make_job(tmp_path / "rows", tmp_path / "run", collect_stats=True, epochs=1, network=plain), size=3)
    traces = traces_of(tmp_path / "run", 3)
    assert [trace.totals["step"][0] for trace in traces] == [1, 1, 1]
    assert ["forward_backward" in trace.totals for trace in traces] == [True, True, False]


def test_a_run_that_goes_on_records_what_it_does_itself(staged, tmp_path):
    job = make_job(staged, tmp_path, collect_stats=True, checkpoint=Checkpoint(every_steps=4), hooks=(Interrupting(6),))
    with pytest.raises(InterruptedError):
        run_here(job)
    (tmp_path / "phases").mkdir(exist_ok=True)
    (tmp_path / "phases" / "rank-00001.jsonl").write_text('{"kind": "ra')  # as a killed attempt might leave it
    run_here(resumed(job))
    for trace in traces_of(tmp_path):
        assert trace.steps == (EPOCHS - 1) * STEPS, "on from the end of the first epoch"
        assert "checkpoint" in trace.totals
        assert "hooks" not in trace.totals


def test_urls_are_written_to(staged):
    url = "memory://recording-test/run"
    run_here(make_job(staged, url, collect_stats=True, epochs=1))
    assert [trace.rank for trace in traces_of(url)] == [0, 1]
    steps = [trace.named("step") for trace in traces_of(url)]
    assert all(a["end"] <= b["begin"] for own in steps for a, b in itertools.pairwise(own))
    fsspec.filesystem("memory").rm("/recording-test", recursive=True)
