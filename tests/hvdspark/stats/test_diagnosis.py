"""What is said of a run is what its figures say, and nothing is said without them."""

import pytest

from contracts.recorded import read_back, recorded
from hvdspark.stats import DriverSpan
from hvdspark.stats.diagnosis import diagnose, mean_steps

WORK = {"load": 0.0005, "forward_backward": 0.01, "exchange": 0.002}
FIRST = {"load": 0.001, "encode": 5.0}


def said(tmp_path, *lengths, count=30, first=None):
    recorders = [recorded([first or WORK, *[{**WORK, **each}] * count]) for each in lengths]
    return "\n".join(diagnose(read_back(tmp_path, recorders)))


def test_the_first_step_is_no_part_of_the_mean(tmp_path):
    (step,) = mean_steps(read_back(tmp_path, [recorded([FIRST, WORK, WORK])]))
    assert step.count == 2
    assert "encode" not in step.phases
    assert step.phases["forward_backward"] == pytest.approx(0.01)
    assert step.own_s == pytest.approx(0.0105)
    assert step.seconds == pytest.approx(sum(WORK.values()) + 1e-4)


def test_too_few_steps_say_nothing(tmp_path):
    assert "Too few steps" in said(tmp_path, {"load": 1.0}, count=9)
    assert "Too few steps" in "\n".join(diagnose(()))


def test_waiting_for_data_names_rank_host_and_share(tmp_path):
    text = said(tmp_path, {}, {"load": 0.0125})
    assert "Rank 1 on host-1 waits 51% of a step for data" in text
    assert "1 of 2 ranks" in text


def test_a_slow_rank_is_named_with_its_phase_and_the_others_are_said_to_wait(tmp_path):
    text = said(tmp_path, {"exchange": 0.022}, {"exchange": 0.022}, {"forward_backward": 0.03})
    assert "Rank 2 on host-2 is the slowest" in text
    assert "2.9 x the median of the others, most of the difference in forward backward" in text
    assert "waiting for one another" in text
    assert "larger batches" not in text


def test_an_exchange_that_is_slow_on_all_ranks_is_the_messages(tmp_path):
    text = said(tmp_path, {"exchange": 0.02}, {"exchange": 0.021})
    assert "Exchanges take 65% of a step even on the rank that waits least in them (0)" in text
    assert "slowest" not in text


def test_noise_is_no_slow_rank(tmp_path):
    """A rank that is slower on average because of two steps of forty is not called the slowest."""
    steady = [WORK] * 41
    jumpy = [WORK if i not in (7, 30) else {**WORK, "forward_backward": 0.2} for i in range(41)]
    assert "slowest" not in "\n".join(diagnose(read_back(tmp_path, [recorded(steady), recorded(jumpy)])))


def test_a_long_first_step_and_a_quiet_run(tmp_path):
    assert "The first step took 5 s" in said(tmp_path, {}, first=FIRST)
    assert said(tmp_path, {}) == "Nothing stands out: forward backward takes the largest part of a step, 79%."


def test_staging_that_takes_most_of_a_fit_is_told(tmp_path):
    driver = (DriverSpan(name="staging", begin_s=0.0, end_s=6.0), DriverSpan(name="ranks", begin_s=6.0, end_s=10.0))
    traces = read_back(tmp_path, [recorded([WORK] * 31)])
    assert diagnose(traces, driver) == ("Staging the data took 6 s, 60% of the whole fit.",)
