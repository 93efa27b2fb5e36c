"""Recorded runs for the tests of what is made of them."""

import json
from pathlib import Path

from hvdspark.stats import Clock, DriverTimes, SpanRecorder, read_traces, trace_path

CLOCK = Clock(at_s=(0.0, 1e6), to_wall_s=(1.7e9, 1.7e9), uncertainty_s=1e-4)


def recorded(lengths, *, start=10.0, limit=10_000, gap=1e-4):
    """A recorder of steps, each a dict of seconds by phase in the order in which they follow one another."""
    recorder, now = SpanRecorder(limit), start
    recorder.record("start", now - 1.0, now)

    def steps():
        nonlocal now
        for length in lengths:
            begin = now
            for name, seconds in length.items():
                recorder.record(name, now, now + seconds)
                now += seconds
            now += gap
            recorder.record("step", begin, now)
            recorder.steps += 1

    steps()
    return recorder


def read_back(directory, recorders, hosts=None):
    """Write what was recorded, as ranks do, and read it, as the driver does."""
    (directory / "phases").mkdir(exist_ok=True)
    for rank, recorder in enumerate(recorders):
        records = recorder.records(rank, hosts[rank] if hosts else f"host-{rank}", CLOCK)
        text = "".join(json.dumps(record) + "\n" for record in records)
        Path(trace_path(str(directory), rank)).write_text(text)
    driver = DriverTimes()
    driver.wall_s = 1.7e9
    traces, _ = read_traces(str(directory), len(recorders), driver)
    return traces
