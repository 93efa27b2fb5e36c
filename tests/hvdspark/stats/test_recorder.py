"""Counts, sums and maxima are of all that was recorded; what is kept one by one is bounded and spread evenly."""

import math
import threading

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.recorded import CLOCK, read_back, recorded
from hvdspark.errors import ConfigurationError, StorageError
from hvdspark.stats import DriverTimes, SpanRecorder, read_traces
from hvdspark.stats.phases import phase_table

seconds = st.floats(1e-6, 1.0)
steps = st.lists(st.dictionaries(st.sampled_from(["load", "encode", "exchange"]), seconds), min_size=1, max_size=40)


@given(lengths=steps)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_table_is_numpys(tmp_path, lengths):
    (trace,) = read_back(tmp_path, [recorded(lengths)])
    lines = {line.phase: line for line in phase_table([trace])}
    for name in ("load", "encode", "exchange"):
        own = [length[name] for length in lengths if name in length]
        if not own:
            assert name not in lines
            continue
        line = lines[name]
        assert line.count == len(own)
        assert line.total_s == pytest.approx(math.fsum(own), rel=1e-9, abs=1e-9)
        assert line.mean_s == pytest.approx(np.mean(own), rel=1e-6, abs=1e-8)
        assert line.max_s == pytest.approx(max(own), abs=1e-8)
        assert (line.p50_s, line.p95_s) == pytest.approx(tuple(np.percentile(own, [50, 95])), abs=1e-8)
    assert lines["step"].count == trace.steps == len(lengths)


@given(count=st.integers(1, 3000), limit=st.integers(16, 200))
@settings(deadline=None, max_examples=30)
def test_what_is_kept_is_bounded_and_spread_evenly(count, limit):
    recorder = recorded([{"load": 1e-3, "encode": 2e-3}] * count, limit=limit)
    kept = [line for line in recorder.records(0, "h", CLOCK) if line["kind"] == "spans" and line["step"] >= 0]
    assert sum(len(line["spans"]) for line in kept) <= limit
    assert [line["step"] for line in kept] == list(range(0, count, recorder.stride)), "every so many-th, to the end"
    assert all(len(line["spans"]) == 3 for line in kept), "a step is kept whole"
    assert recorder.stride == 1 or 3 * len(kept) > limit / 4, "no more is forgotten than need be"
    assert recorder.totals["load"][0] == count
    assert recorder.totals["encode"][1] == pytest.approx(2e-3 * count)


def test_what_is_rare_does_not_vanish_between_the_steps():
    recorder = SpanRecorder(40)
    for step in range(1000):
        recorder.record("load", step, step + 0.5)
        recorder.steps += 1
        if step % 250 == 1:
            recorder.record("checkpoint", step + 0.6, step + 0.9)
    names = [span[0] for line in recorder.records(0, "h", CLOCK) if line["kind"] == "spans" for span in line["spans"]]
    assert names.count("checkpoint") == 4


def test_one_step_of_endless_phases_is_bounded_too():
    recorder = SpanRecorder(40)
    for i in range(100_000):
        recorder.record("exchange", i, i + 0.5)
    assert recorder.stride == 1
    assert recorder.totals["exchange"][0] == 100_000
    assert sum(len(line.get("spans", ())) for line in recorder.records(0, "h", CLOCK)) <= 40


def test_another_thread_has_a_track_of_its_own(tmp_path):
    recorder = recorded([{"load": 0.1}])
    thread = threading.Thread(target=recorder.record, args=("exchange", 10.05, 10.09))
    thread.start()
    thread.join()
    (trace,) = read_back(tmp_path, [recorder])
    assert trace.named("exchange")["track"].tolist() == [1]
    assert trace.named("load")["track"].tolist() == [0]


def test_a_damaged_or_missing_file_is_told(tmp_path):
    read_back(tmp_path, [recorded([{"load": 0.1}])])
    with pytest.raises(StorageError):
        read_traces(str(tmp_path), 2, DriverTimes())
    (tmp_path / "phases" / "rank-00000.jsonl").write_text('{"kind": "phase"}\n')
    with pytest.raises(StorageError, match="damaged"):
        read_traces(str(tmp_path), 1, DriverTimes())
    with pytest.raises(ConfigurationError, match="limit"):
        SpanRecorder(1)


def test_ranks_whose_clock_is_not_the_drivers_lie_within_its_waiting(tmp_path):
    """Rank 0's host may be hours off: what ranks did is moved as little as is needed."""
    read_back(tmp_path, [recorded([{"load": 0.1}] * 3)])
    for off in (-7200.0, 7200.0):
        driver = DriverTimes()
        driver.wall_s = 1.7e9 + off
        driver._last -= 0.5
        driver._begin -= 0.5
        driver._last = driver._begin + 0.25
        driver.lap("ranks")
        (trace,), spans = read_traces(str(tmp_path), 1, driver)
        assert [span.name for span in spans] == ["launch", "ranks"]
        first, last = trace.spans["begin"].min() / 1e9, trace.spans["end"].max() / 1e9
        assert first == pytest.approx(0.25) if off > 0 else last == pytest.approx(spans[-1].end_s)
        assert all(span.begin_s <= span.end_s for span in spans)
