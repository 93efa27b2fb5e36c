"""Schedules and periods."""

import pytest

from hvdspark.errors import ConfigurationError
from hvdspark.sync.part import Part
from hvdspark.sync.period import Period, checked_local_steps, local_steps_at


@pytest.mark.parametrize("given", [0, -1, True, 1.5, (), ((1, 2),), ((0, 0),), ((0, 1), (0, 2)), ((0, 1, 2),)])
def test_a_schedule_that_is_none_is_refused(given):
    with pytest.raises(ConfigurationError, match="local_steps"):
        checked_local_steps(given)


def test_the_length_of_a_period_is_that_of_its_first_step():
    schedule = checked_local_steps(((0, 1), (5, 3)))
    assert [local_steps_at(schedule, step) for step in (0, 4, 5, 100)] == [1, 1, 3, 3]


def test_a_period_counts_only_what_all_its_steps_know():
    period = Period(3)
    period.add(Part(3, 8))
    assert period.part == Part(3, 8)
    period.add(Part(4, None))
    assert period.part == Part(7, None)
    assert Period.of(period.numbers()) == period
    period.add(Part())
    assert period.part == Part(None, None)
    assert period.is_over
