"""Events: one line each, followed while they are written."""

import fsspec
import pytest

from hvdspark.events import EventLog, EventReader, events_path


def test_written_and_followed(tmp_path):
    reader = EventReader(str(tmp_path))
    assert list(reader.read()) == []
    with EventLog(str(tmp_path), 0) as log:
        log.write("start", host="a")
        assert [e["kind"] for e in reader.read()] == ["start"]
        log.write("epoch", score=float("nan"))
        log.write("end")
        (epoch, end) = reader.read()
        assert epoch["score"] is None
        assert (end["kind"], end["rank"]) == ("end", 0)
    assert list(reader.read()) == []


def test_a_line_without_its_end_is_waited_for(tmp_path):
    with EventLog(str(tmp_path), 0) as log:
        log.write("start")
    reader = EventReader(str(tmp_path))
    with open(events_path(str(tmp_path), 0), "a") as file:  # noqa: PTH123
        file.write('{"kind": "half"')
        file.flush()
        assert [e["kind"] for e in reader.read()] == ["start"]
        file.write("}\n")
    assert [e["kind"] for e in reader.read()] == ["half"]


def test_at_a_url_every_event_is_there_in_the_end():
    url = "memory://events-test"
    with EventLog(url, 3) as log:
        for number in range(5):
            log.write("tick", number=number)
    assert [e["number"] for e in EventReader(url, 3).read()] == list(range(5))
    fsspec.filesystem("memory").rm("/events-test", recursive=True)


def test_a_closed_log_refuses(tmp_path):
    log = EventLog(str(tmp_path), 0)
    log.close()
    with pytest.raises(OSError, match="closed"):
        log.write("late")
