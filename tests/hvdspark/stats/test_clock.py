"""What messages alone say of clocks: the truth lies between the bounds, whatever the network does."""

from hypothesis import given
from hypothesis import strategies as st

from hvdspark.stats import Clock, OffsetBounds

delays = st.floats(1e-6, 0.5)


@given(ahead=st.floats(-1e4, 1e4), rounds=st.lists(st.tuples(delays, delays, delays, delays), min_size=1))
def test_the_truth_lies_between_the_bounds(ahead, rounds):
    """Each enters when it likes, and leaves at any time after both have entered."""
    bounds, now = OffsetBounds(), 100.0
    for enter, other_enter, leave, other_leave in rounds:
        entered, other_entered = now + enter, now + other_enter
        both = max(entered, other_entered)
        left, other_left = both + leave, both + other_leave
        bounds.narrow(entered=entered, left=left, other_entered=other_entered + ahead, other_left=other_left + ahead)
        now = max(left, other_left)
    assert bounds.lower - 1e-9 <= ahead <= bounds.upper + 1e-9
    assert abs(bounds.offset - ahead) <= bounds.uncertainty + 1e-9


def test_a_clock_that_drifts_is_read_between_two_comparisons():
    clock = Clock(at_s=(10.0, 110.0), to_wall_s=(1.7e9, 1.7e9 + 1.0), uncertainty_s=0.0)
    assert clock.since(1.7e9, 10.0) == 10_000_000_000
    assert clock.since(1.7e9, 60.0) == 60_500_000_000
    assert clock.since(1.7e9 + 100, 110.0) == 11_000_000_000
    assert clock.since(1.7e9, 10.000000123) - clock.since(1.7e9, 10.0) == 123 + 1  # the drift: 1 %


def test_two_comparisons_at_once_are_one():
    assert Clock(at_s=(3.0, 3.0), to_wall_s=(5.0, 5.0), uncertainty_s=0.0).since(0.0, 4.0) == 9_000_000_000
