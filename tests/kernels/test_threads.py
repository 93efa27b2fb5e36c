"""Ranges cover everything once; the pool serves many callers at once and survives a fork."""

import os
import signal
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdspark_kernels import threads


@given(st.integers(0, 10**10), st.integers(1, 20), st.sampled_from([1, 64, 65536]))
def test_ranges_cover_everything_once_in_order(n, num_threads, unit):
    parts = threads.ranges(n, num_threads, unit)
    assert 1 <= len(parts) <= num_threads
    assert parts[0][0] == 0
    assert parts[-1][1] == n
    for (begin, end), (following, _) in zip(parts, [*parts[1:], (n, n)], strict=True):
        assert end == following
        assert begin % unit == 0
        assert begin <= end


def test_small_arrays_stay_on_the_callers_thread():
    assert threads.ranges(100_000, 8, 64) == [(0, 100_000)]
    assert len(threads.ranges(10_000_000, 8, 64)) == 8


def test_num_threads_below_one_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        threads.ranges(10, 0, 1)


def test_ctrl_c_waits_for_all_ranges(monkeypatch):
    """They write to the caller's arrays, which must not change any more once the caller goes on."""
    asked, done = [], threading.Event()

    class Interrupted(threads.Future):
        def exception(self, timeout=None):
            asked.append(done.is_set())
            if len(asked) == 1:
                raise KeyboardInterrupt
            return super().exception(timeout)

    def work(begin, _end):
        if begin:
            threading.Event().wait(0.2)
            done.set()

    monkeypatch.setattr("concurrent.futures.thread._base.Future", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        threads.run(work, [(0, 1), (1, 2)])
    assert done.is_set()
    assert asked[0] is False


def test_results_come_in_order_and_the_first_range_runs_here():
    here = threading.get_ident()
    results = threads.run(lambda begin, end: (begin, end, threading.get_ident() == here), [(0, 1), (1, 2), (2, 5)])
    assert [(begin, end) for begin, end, _ in results] == [(0, 1), (1, 2), (2, 5)]
    assert [mine for _, _, mine in results] == [True, False, False]


@pytest.mark.parametrize("failing", [0, 1])
def test_an_error_is_raised_when_all_ranges_have_ended(failing):
    ended = []

    def work(begin, end):
        if begin == failing:
            raise KeyError(begin)
        ended.append(begin)

    with pytest.raises(KeyError):
        threads.run(work, [(0, 1), (1, 2), (2, 3)])
    assert sorted(ended) == [i for i in range(3) if i != failing]


def test_many_callers_at_once():
    wrong = []

    def caller():
        for _ in range(50):
            lengths = threads.run(lambda begin, end: end - begin, [(0, 1), (1, 3), (3, 6)])
            wrong.extend([lengths] if lengths != [1, 2, 3] else [])

    callers = [threading.Thread(target=caller) for _ in range(4)]
    for each in callers:
        each.start()
    for each in callers:
        each.join(20)
        assert not each.is_alive()
    assert not wrong


def test_a_forked_child_gets_threads_of_its_own():
    parts = [(0, 1), (1, 3)]
    assert threads.run(lambda begin, end: end - begin, parts) == [1, 2]  # the parent's threads run now
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # a child that hangs is killed, and the parent sees it
        os._exit(0 if threads.run(lambda begin, end: end - begin, parts) == [1, 2] else 1)
    _, status = os.waitpid(child, 0)
    assert status == 0
