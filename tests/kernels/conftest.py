import pytest

from hvdspark_kernels import threads


@pytest.fixture
def small_ranges(monkeypatch):
    """Let also tiny arrays be cut into a range a thread."""
    monkeypatch.setattr(threads, "_MIN_RANGE", 1)
