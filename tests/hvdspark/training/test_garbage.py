"""Garbage is collected when its time has come, and never in between."""

import gc

import pytest

from hvdspark.training.garbage import collecting_every


@pytest.fixture
def collections():
    """A list that grows by one with each collection of everything."""
    seen = []

    def note(phase, info):
        if phase == "start" and info["generation"] == 2:
            seen.append(info)

    gc.callbacks.append(note)
    yield seen
    gc.callbacks.remove(note)


def test_it_is_collected_at_its_time_only(collections, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    with collecting_every(5000) as between_steps:
        assert not gc.isenabled()
        for second in range(12):
            now[0] = 100.0 + second
            between_steps()
            assert len(collections) == second // 5
    assert gc.isenabled()


def test_none_leaves_it_to_python(collections):
    with collecting_every(None) as between_steps:
        assert gc.isenabled()
        between_steps()
    assert not collections


def test_what_was_off_stays_off_also_after_an_error():
    gc.disable()
    try:
        with pytest.raises(KeyError), collecting_every(1):
            raise KeyError
        assert not gc.isenabled()
    finally:
        gc.enable()
