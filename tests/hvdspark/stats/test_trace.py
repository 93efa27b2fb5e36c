"""The Chrome trace: valid JSON whose events nest."""

import json
from pathlib import Path

import pytest

from contracts.recorded import read_back, recorded
from hvdspark.errors import ConfigurationError
from hvdspark.stats import DriverSpan, TrainingStats


def stats_of(traces, driver=()):
    history = ({"epoch": 0, "score": 1.0, "seconds": 1.0}, {"epoch": 1, "score": 0.5, "seconds": 1.0})
    return TrainingStats(
        title="<Net>", history=history, ranks=(), options={}, staging_s=0.0, training_s=0.0, total_s=0.0,
        traces=traces, driver=driver,
    )  # fmt: skip


def check_nesting(document):
    """On each thread an event lies within the one around it, or after it."""
    threads = {}
    for event in document["traceEvents"]:
        assert event["ph"] in "XM"
        if event["ph"] == "X":
            begin = round(event["ts"] * 1000)
            threads.setdefault((event["pid"], event["tid"]), []).append((begin, begin + round(event["dur"] * 1000)))
    for spans in threads.values():
        around = []
        for begin, end in sorted(spans, key=lambda span: (span[0], -span[1])):
            while around and around[-1] <= begin:
                around.pop()
            assert not around or end <= around[-1]
            around.append(end)
    return threads


def test_events_nest_and_name_their_step(tmp_path):
    lengths = [{"load": 0.01, "encode": 0.02, "exchange": 0.03}] * 5
    traces = read_back(tmp_path, [recorded(lengths), recorded(lengths, start=10.001)], hosts=["a", 'b"<'])
    driver = (DriverSpan(name="staging", begin_s=0.0, end_s=1.0), DriverSpan(name="ranks", begin_s=1.0, end_s=12.0))
    path = stats_of(traces, driver).to_chrome_trace(str(tmp_path / "trace.json"))
    document = json.loads(Path(path).read_text(), parse_constant=pytest.fail)
    assert set(check_nesting(document)) == {(0, 0), (1, 0), (2, 0)}
    names = {e["pid"]: e["args"]["name"] for e in document["traceEvents"] if e["name"] == "process_name"}
    assert names == {0: "driver", 1: "rank 0 (a)", 2: 'rank 1 (b"<)'}
    loads = [e for e in document["traceEvents"] if e["name"] == "load" and e["pid"] == 2]
    assert [e["args"]["step"] for e in loads] == list(range(5))
    assert {e["dur"] for e in loads} == {10_000}
    assert loads[0]["ts"] == 10_001_000


def test_without_records_the_option_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="collect_training_stats=True"):
        stats_of(()).to_chrome_trace(str(tmp_path / "trace.json"))
    assert not list(tmp_path.iterdir())
    assert stats_of(()).phases == ()
