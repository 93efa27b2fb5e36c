"""Trees of groups: each member comes to the top by exactly one way, and no group is too large."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdspark.collectives.tree import levels
from hvdspark.errors import ConfigurationError


@given(st.lists(st.integers(0, 500), min_size=1, max_size=60, unique=True).map(sorted), st.integers(2, 9))
def test_everybody_is_summed_once(members, fan_out):
    tree = levels(members, fan_out)
    below = {member: {member} for member in members}
    for groups in tree:
        for first, *others in groups:
            assert 1 <= len(others) < fan_out
            for other in others:
                below[first] |= below.pop(other)
    assert below == {members[0]: set(members)}
    assert all(len(groups) == 1 for groups in tree[-1:])
    assert fan_out ** len(tree) >= len(members) > fan_out ** (len(tree) - 1) - (len(tree) == 0)


def test_groups_of_one_are_refused():
    with pytest.raises(ConfigurationError, match="2 or more"):
        levels([0, 1], 1)
