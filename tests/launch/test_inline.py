"""InlineLauncher: one rank, here."""

import os

import pytest

from hvdspark_launch import InlineLauncher, RankFailed, TooFewSlots


def test_runs_here_and_returns():
    assert InlineLauncher().run(lambda a, b: (os.getpid(), a + b), 1, (1,), {"b": 2}) == [(os.getpid(), 3)]


def test_an_exception_has_rank_and_cause():
    with pytest.raises(RankFailed, match="rank 0") as caught:
        InlineLauncher().run(lambda: 1 / 0, 1)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_refusals():
    with pytest.raises(TooFewSlots, match="LocalLauncher"):
        InlineLauncher().run(len, 2)
    with pytest.raises(ValueError, match="rows= cannot act on InlineLauncher"):
        InlineLauncher().run(len, 1, rows=object())


def test_environment_is_put_back():
    before = dict(os.environ)
    InlineLauncher().run(lambda: os.environ.update(HVDSPARK_TEST_INLINE="1"), 1)
    assert dict(os.environ) == before
