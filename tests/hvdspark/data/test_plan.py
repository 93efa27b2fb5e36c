import itertools
import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from contracts.plans import steps_of
from hvdspark.data.plan import GROUPS_PER_BLOCK, EpochPlan
from hvdspark.errors import ConfigurationError, DataError


def order(plan):
    """The rows of an epoch as (group, row), step by step, rank by rank; checks sizes on the way."""
    rows = []
    by_rank = [steps_of(plan, rank) for rank in range(plan.size)]
    for step in range(plan.num_steps):
        counts = [plan.examples(rank, step) for rank in range(plan.size)]
        assert sum(counts) == plan.total_examples(step)
        assert max(counts) - min(counts) <= 1
        if step < plan.num_steps - 1:
            assert counts == [plan.batch_size] * plan.size
        assert plan.total_examples(step) > 0
        rows += [row for steps in by_rank for row in steps[step]]
    return rows


def all_rows(rows_per_group):
    return [(group, row) for group, rows in enumerate(rows_per_group) for row in range(rows)]


def grouped(rows, rows_per_group):
    full, rest = divmod(rows, rows_per_group)
    return (rows_per_group,) * full + ((rest,) if rest else ())


def check_grid(rows_per_group, batch_sizes):
    for rows in range(1, 33):
        groups = grouped(rows, rows_per_group)
        expected = None
        for size, batch_size in itertools.product(range(1, 9), batch_sizes):
            plan = EpochPlan(groups, size, batch_size, seed=3, epoch=rows)
            assert plan.num_steps == -(-rows // (size * batch_size))
            found = order(plan)
            if expected is None:
                expected = found
                assert sorted(found) == all_rows(groups)
            assert found == expected


@pytest.mark.parametrize("rows_per_group", [1, 3, 8])
def test_each_row_comes_once_in_an_order_that_no_size_changes(rows_per_group):
    check_grid(rows_per_group, [1, 3, 8])


@pytest.mark.slow
@pytest.mark.parametrize("rows_per_group", range(1, 9))
def test_each_row_comes_once_on_the_whole_grid(rows_per_group):
    check_grid(rows_per_group, range(1, 9))


@given(
    groups=st.lists(st.integers(0, 300), min_size=1, max_size=12).filter(any),
    size=st.integers(1, 40),
    batch_size=st.integers(1, 70),
    seed=st.integers(0, 2**63),
    epoch=st.integers(0, 1000),
    shuffle=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_each_row_comes_once_for_any_groups(groups, size, batch_size, seed, epoch, shuffle):
    plan = EpochPlan(tuple(groups), size, batch_size, seed, epoch, shuffle=shuffle)
    found = order(plan)
    assert sorted(found) == all_rows(groups)
    assert found == order(EpochPlan(tuple(groups), 1, size * batch_size, seed, epoch, shuffle=shuffle))
    if not shuffle:
        assert found == all_rows(groups)


@given(
    groups=st.lists(st.integers(0, 40), min_size=1, max_size=90).filter(any),
    size=st.integers(1, 9),
    batch_size=st.integers(1, 70),
    shuffle=st.booleans(),
    drop_last=st.booleans(),
    data=st.data(),
)
@settings(max_examples=60, deadline=None)
def test_blocks_from_a_step_on_are_the_rest_of_all_blocks(groups, size, batch_size, shuffle, drop_last, data):
    assume(not drop_last or sum(groups) >= size * batch_size)
    plan = EpochPlan(tuple(groups), size, batch_size, 3, 1, shuffle=shuffle, drop_last=drop_last)
    rank, start = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, plan.num_steps))
    assert steps_of(plan, rank, start) == steps_of(plan, rank)[start:]
    assert all(len(g) and len(set(g.tolist())) <= GROUPS_PER_BLOCK for g, _ in plan.blocks(rank, start))


@given(
    groups=st.lists(st.integers(0, 60), min_size=1, max_size=40).filter(any),
    size=st.integers(1, 9),
    batch_size=st.integers(1, 30),
    epoch=st.integers(0, 9),
    shuffle=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_drop_last_leaves_out_the_end_of_the_order_and_nothing_else(groups, size, batch_size, epoch, shuffle):
    rows, step = sum(groups), size * batch_size
    assume(rows >= step)
    whole = order(EpochPlan(tuple(groups), size, batch_size, 5, epoch, shuffle=shuffle))
    plan = EpochPlan(tuple(groups), size, batch_size, 5, epoch, shuffle=shuffle, drop_last=True)
    assert order(plan) == whole[: rows // step * step]
    assert plan.num_examples == rows // step * step
    assert {plan.examples(rank, n) for rank in range(size) for n in range(plan.num_steps)} == {batch_size}


def test_drop_last_that_leaves_no_row_is_refused():
    with pytest.raises(DataError, match="drop_last=True leaves no row: 7 rows fill no step of 2 ranks x 4 rows"):
        EpochPlan((7,), 2, 4, 0, 0, drop_last=True)


def test_a_plan_needs_memory_for_row_groups_not_for_rows():
    # 100,000 groups of 1,000 rows each: an index of the rows would be 800 MB
    def planned(rows):
        tracemalloc.start()
        plan = EpochPlan((rows,) * 100_000, 4, 256, seed=1, epoch=2)
        assert plan.num_steps == -(-100_000 * rows // 1024)
        plan.total_examples(plan.num_steps - 1)
        next(iter(plan.blocks(0)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few, many = planned(1), planned(1000)
    assert many < few + 32 * 1000 * 8 * 20  # what the rows of one block take while they are drawn
    assert many < 100_000 * 8 * 10


def test_ranks_cut_the_batch_that_one_rank_would_see():
    many, one = EpochPlan((50, 7, 31), 4, 5, seed=1, epoch=2), EpochPlan((50, 7, 31), 1, 20, seed=1, epoch=2)
    assert many.num_steps == one.num_steps
    parts = zip(*(steps_of(many, rank) for rank in range(4)), strict=True)
    assert [[row for part in step for row in part] for step in parts] == steps_of(one, 0)


def test_seed_epoch_and_group_each_change_the_order():
    def rows(seed, epoch):
        return order(EpochPlan((64, 64), 1, 16, seed, epoch))

    assert rows(1, 0) != rows(2, 0)
    assert rows(1, 0) != rows(1, 1)
    assert rows(0, 1) != rows(1, 0)
    by_group = {g: [r for group, r in rows(1, 0) if group == g] for g in (0, 1)}
    assert by_group[0] != by_group[1]
    assert {steps_of(EpochPlan((5, 5), 1, 1, 0, epoch), 0)[0][0][0] for epoch in range(20)} == {0, 1}


def test_rows_are_mixed_evenly():
    # Where row 0 of 16 lands over 4,000 epochs: each place about 250 times; chi-squared of 15 degrees, p = 1e-4 at 44.
    places = [steps_of(EpochPlan((16,), 1, 16, 9, e), 0)[0].index((0, 0)) for e in range(4000)]
    counts = np.bincount(places, minlength=16)
    assert ((counts - 250) ** 2 / 250).sum() < 44


def test_the_order_of_version_1_is_pinned():
    # A checkpoint that goes on in the middle of an epoch needs the same order from every later release.
    assert order(EpochPlan((4, 3, 5), 1, 4, seed=42, epoch=7)) == [
        (1, 2),
        (0, 2),
        (1, 1),
        (2, 3),
        (2, 2),
        (2, 1),
        (2, 4),
        (0, 0),
        (2, 0),
        (1, 0),
        (0, 3),
        (0, 1),
    ]


def test_batches_of_sorted_data_are_mixtures():
    # Ten classes, one behind the other, 40 groups each: every batch of 64 sees most of them.
    groups = 400
    plan = EpochPlan((64,) * groups, 2, 32, seed=3, epoch=0)
    for one, other in list(zip(steps_of(plan, 0), steps_of(plan, 1), strict=True))[::50]:
        assert len({group // 40 for group, _ in one + other}) >= 7


def test_a_plan_is_a_value():
    plan = EpochPlan((3, 4), 2, 2, seed=5, epoch=1)
    first = order(plan)
    copy = pickle.loads(pickle.dumps(plan))
    assert copy == plan
    assert order(copy) == first


def test_a_rank_may_get_no_row():
    plan = EpochPlan((2,), 4, 3, seed=0, epoch=0)
    assert [plan.examples(rank, 0) for rank in range(4)] == [1, 1, 0, 0]
    assert list(plan.blocks(3)) == []


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"size": 0}, "EpochPlan.size"),
        ({"batch_size": 0}, "EpochPlan.batch_size"),
        ({"batch_size": 1.5}, "EpochPlan.batch_size"),
        ({"seed": -1}, "EpochPlan.seed"),
        ({"epoch": -1}, "EpochPlan.epoch"),
        ({"rows_per_group": (3, -1)}, "rows_per_group"),
    ],
)
def test_numbers_out_of_range_are_refused(change, text):
    options = {"rows_per_group": (4,), "size": 1, "batch_size": 1, "seed": 0, "epoch": 0}
    with pytest.raises(ConfigurationError, match=text):
        EpochPlan(**{**options, **change})


def test_no_rows_are_refused():
    with pytest.raises(DataError, match="no row"):
        EpochPlan((), 1, 1, 0, 0)


def test_steps_and_ranks_out_of_range_are_refused():
    plan = EpochPlan((4,), 2, 2, 0, 0)
    with pytest.raises(ConfigurationError, match="step 1 is not one of the 1 steps"):
        plan.examples(0, 1)
    with pytest.raises(ConfigurationError, match="rank 2 is not one of 2"):
        plan.examples(2, 0)
