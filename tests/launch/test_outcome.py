"""How a rank's end travels to the caller, and which of several failures is the one that is told."""

import builtins
import pickle
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdspark_launch import LaunchError, PeerFailed, RankFailed, StartTimeout, TooFewSlots
from hvdspark_launch.outcome import Outcome, RankAborted, capture, find_outcome, how_ended, raise_first, results

TOKEN = "0123456789abcdef"
OUTCOMES = st.builds(
    Outcome,
    rank=st.integers(0, 1000),
    host=st.text(max_size=20),
    ok=st.booleans(),
    time=st.floats(0, 1e10),
    payload=st.binary(max_size=200),
    summary=st.text(max_size=50),
    traceback=st.text(max_size=50),
    consequence=st.booleans(),
)


def fail(error):
    def fn():
        raise error

    return fn


class Awkward(Exception):
    """Pickles, but cannot be made again from its arguments: a common mistake."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


@given(OUTCOMES)
def test_bytes_give_back_the_outcome(outcome):
    assert Outcome.from_bytes(outcome.to_bytes()) == outcome


@given(OUTCOMES, st.text(max_size=100))
def test_an_outcome_is_found_in_the_text_of_an_exception(outcome, noise):
    assert find_outcome(f"{noise}\n{RankAborted(outcome, TOKEN)}\n\tat java.lang.Thread.run", TOKEN) == outcome


def test_an_outcome_without_the_run_s_token_is_none():
    outcome = capture(fail(KeyError("mine")), 0, "h")
    for token in ("", ".*", "0123456789abcdee"):
        assert find_outcome(str(RankAborted(outcome, token)), TOKEN) is None
    both = f"{RankAborted(outcome, '')} {RankAborted(capture(fail(ValueError('real')), 1, 'h'), TOKEN)}"
    assert find_outcome(both, TOKEN).rank == 1


def noted():
    error = ValueError("two lines:\nthis is the second")
    error.add_note("a note")
    return error


@pytest.mark.parametrize(
    ("error", "headline"),
    [
        (ValueError("column 'x' has 3 values\nsee https://somewhere"), "ValueError: column 'x' has 3 values"),
        (noted(), "ValueError: two lines:"),
        (SyntaxError("invalid syntax", ("f.py", 1, 2, "a b", 1, 3)), "SyntaxError: invalid syntax"),
        (ValueError(), "ValueError"),
        (ExceptionGroup("several", [ValueError("one")]), "ExceptionGroup: several (1 sub-exception)"),
    ],
)
def test_the_summary_is_the_first_line_of_the_message(error, headline):
    assert capture(fail(error), 0, "h").summary == headline


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (-9, "was killed by SIGKILL"),
        (137, "was killed by SIGKILL"),
        (-37, "was killed by signal 37"),
        (3, "exit code 3"),
    ],
)
def test_how_a_process_ended(code, words):
    assert words in how_ended(code)


@pytest.mark.parametrize("error", [RankFailed(2, "h", "it broke", "Traceback ..."), TooFewSlots(5, 2, "ask for fewer")])
def test_our_own_errors_can_be_pickled(error):
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), vars(again)) == (str(error), vars(error))


def test_an_exception_too_large_for_a_text_leaves_its_words():
    outcome = capture(fail(ValueError("x" * 10_000)), 3, "h")
    found = find_outcome(str(RankAborted(outcome, TOKEN)), TOKEN)
    assert found.payload == b""
    assert found.summary == outcome.summary


@given(st.permutations(range(5)))
def test_results_come_in_rank_order(order):
    assert results([capture(lambda rank=rank: rank * 10, rank, "h") for rank in order], 5) == [0, 10, 20, 30, 40]


def test_a_missing_outcome_is_no_result():
    with pytest.raises(LaunchError, match=r"2 ranks were started, but only .*\[0\]"):
        results([capture(lambda: 1, 0, "h")], 2)


def test_the_first_that_is_no_consequence_is_told():
    first = capture(fail(PeerFailed("rank 2 went away")), 0, "a")
    cause = capture(fail(KeyError("mine")), 2, "b")
    later = capture(fail(ValueError("too late")), 1, "c")
    with pytest.raises(RankFailed, match="rank 2 on b failed: KeyError: 'mine'") as caught:
        results([first, later, cause], 3)
    assert caught.value.rank == 2
    assert isinstance(caught.value.__cause__, KeyError)


def test_what_is_raised_from_a_consequence_is_one():
    def fn():
        try:
            raise PeerFailed("gone")
        except PeerFailed as error:
            raise RuntimeError("the exchange broke") from error

    assert capture(fn, 0, "h").consequence
    assert not capture(fail(RuntimeError("mine")), 0, "h").consequence


def test_consequences_alone_are_told_too():
    with pytest.raises(RankFailed, match="rank 1"):
        results([capture(lambda: 1, 0, "h"), capture(fail(PeerFailed("who?")), 1, "h")], 2)


def test_the_traceback_starts_in_the_function():
    outcome = capture(fail(ValueError("mine")), 0, "h")
    assert "in fn" in outcome.traceback
    assert "in capture" not in outcome.traceback


def test_an_exception_that_cannot_be_made_again_arrives_as_text():
    with pytest.raises(RankFailed, match="one and two") as caught:
        results([capture(fail(Awkward("one", "two")), 0, "h")], 1)
    assert caught.value.__cause__ is None


def test_an_exception_that_cannot_be_pickled_arrives_as_text():
    with pytest.raises(RankFailed, match="holds a lock") as caught:
        results([capture(fail(ValueError("holds a lock", threading.Lock())), 0, "h")], 1)
    assert caught.value.__cause__ is None


def test_a_result_that_cannot_be_unpickled_names_its_rank():
    outcome = Outcome(4, "h", ok=True, time=0.0, payload=b"no pickle")
    with pytest.raises(RankFailed, match="rank 4 on h failed: its result cannot be unpickled"):
        results([*(capture(lambda: 0, r, "h") for r in range(4)), outcome], 5)


def test_sys_exit_is_a_failure():
    outcome = capture(fail(SystemExit(3)), 0, "h")
    assert not outcome.ok
    assert "SystemExit: 3" in outcome.summary


def test_a_refusal_arrives_as_the_error_it_was():
    outcome = Outcome.of_refusal(1, "h", StartTimeout("rank 1 waited in vain"))
    with pytest.raises(StartTimeout, match="in vain"):
        raise_first([Outcome.from_bytes(outcome.to_bytes())])


def test_outcomes_survive_modules_that_are_not_loaded(monkeypatch):
    # Neither horovod nor torch is imported to find out that they are not used.
    before = builtins.__import__
    asked = []

    def spy(name, *args, **kwargs):
        asked.append(name)
        return before(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", spy)
    capture(fail(ValueError()), 0, "h")
    assert not [name for name in asked if name.split(".")[0] in {"horovod", "torch"}]
