"""Plans of ranks that have rows of their own: each row once, the same steps for all."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.plans import steps_of
from hvdspark.data.direct_plan import DirectPlan, equal_groups
from hvdspark.errors import ConfigurationError, DataError

SIZES = st.lists(st.integers(0, 60), min_size=1, max_size=8).filter(any)
POSITIVE = st.integers(1, 20)


def rows_of(plan, rank):
    """What a rank takes, step by step, as rows of its own."""
    starts = [sum(plan.groups_of(rank)[:group]) for group in range(len(plan.groups_of(rank)))]
    return [[starts[group] + row for group, row in step] for step in steps_of(plan, rank)]


@settings(max_examples=2000, deadline=None)
@given(SIZES, POSITIVE, POSITIVE, st.integers(0, 2**63 - 1), st.integers(0, 5), st.booleans())
def test_each_row_comes_once_in_steps_of_even_size(rows, rows_per_group, batch_size, seed, epoch, shuffle):
    plan = DirectPlan(tuple(rows), rows_per_group, batch_size, seed, epoch, shuffle)
    assert plan.num_steps == -(-max(rows) // batch_size)
    assert plan.num_rows == plan.num_examples == sum(rows)
    totals = [0] * plan.num_steps
    for rank, count in enumerate(rows):
        steps = rows_of(plan, rank)
        taken = [row for step in steps for row in step]
        assert sorted(taken) == list(range(count))
        if not shuffle:
            assert taken == list(range(count))
        sizes = [len(step) for step in steps]
        assert max(sizes) <= batch_size
        assert max(sizes) - min(sizes) <= 1
        totals = [total + size for total, size in zip(totals, sizes, strict=True)]
    assert totals == [plan.total_examples(step) for step in range(plan.num_steps)]
    assert min(totals) > 0


@settings(max_examples=300, deadline=None)
@given(SIZES, POSITIVE, POSITIVE, st.booleans(), st.data())
def test_blocks_from_a_step_on_are_the_rest_of_all_blocks(rows, rows_per_group, batch_size, shuffle, data):
    plan = DirectPlan(tuple(rows), rows_per_group, batch_size, 7, 1, shuffle)
    rank = data.draw(st.integers(0, len(rows) - 1))
    start = data.draw(st.integers(0, plan.num_steps))
    assert steps_of(plan, rank, start) == steps_of(plan, rank)[start:]


def test_the_order_depends_on_seed_epoch_and_rank_and_on_nothing_else():
    def order(rows=(50, 50), rank=0, seed=1, epoch=0, batch_size=7):
        steps = rows_of(DirectPlan(rows, 8, batch_size, seed, epoch), rank)
        return [row for step in steps for row in step]

    assert order() == order(rows=(50, 3, 400)) == order(batch_size=50)
    assert len({tuple(order(**other)) for other in ({}, {"rank": 1}, {"seed": 2}, {"epoch": 1})}) == 4
    plan = DirectPlan((5, 9), 4, 2, 3, 0)
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_groups_are_filled_one_after_the_other():
    assert equal_groups(0, 4) == ()
    assert equal_groups(9, 4) == (4, 4, 1)
    assert DirectPlan((8, 0), 4, 2, 3, 0).groups_of(0) == (4, 4)
    assert DirectPlan((8, 0), 4, 2, 3, 0).groups_of(1) == ()


@pytest.mark.parametrize("name", ["rows_per_group", "batch_size", "seed", "epoch"])
def test_numbers_out_of_range_are_refused(name):
    good = {"rows_per_rank": (3,), "rows_per_group": 2, "batch_size": 2, "seed": 0, "epoch": 0}
    for value in (-1, 1.5, True):
        with pytest.raises(ConfigurationError, match=name):
            DirectPlan(**{**good, name: value})


def test_what_is_not_there_is_refused():
    with pytest.raises(DataError, match="no row"):
        DirectPlan((0, 0), 2, 2, 0, 0)
    with pytest.raises(ConfigurationError, match="fewer than 0"):
        DirectPlan((3, -1), 2, 2, 0, 0)
    plan = DirectPlan((3,), 2, 2, 0, 0)
    with pytest.raises(ConfigurationError, match="rank 1"):
        plan.blocks(1)
    with pytest.raises(ConfigurationError, match="step 3"):
        plan.examples(0, 2)
