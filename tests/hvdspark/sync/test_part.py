"""What a rank's part weighs."""

import numpy as np
import pytest

from hvdspark.collectives import run_ranks
from hvdspark.errors import RankMismatch
from hvdspark.sync.part import Part


@pytest.mark.parametrize("total", [None, 12])
def test_the_plain_mean_of_weighted_parts_is_the_mean_over_examples(total):
    examples = np.array([2, 0, 10])
    values = np.array([3.0, 100.0, -1.0])
    weights = run_ranks(lambda world: Part(int(examples[world.rank]), total).weight(world), 3)
    assert np.mean(weights * values) == pytest.approx(np.average(values, weights=examples))


@pytest.mark.parametrize("examples", [None, 0])
def test_all_weigh_the_same_where_nobody_counts_or_nobody_has_any(examples):
    assert run_ranks(lambda world: Part(examples).weight(world), 3) == [1.0] * 3


def test_where_a_total_is_known_nothing_is_sent():
    def fn(world):
        before = world.sent_bytes
        Part(world.rank, 3).weight(world)
        return world.sent_bytes - before

    assert run_ranks(fn, 3) == [0] * 3


def test_some_who_count_and_some_who_do_something_else_are_refused():
    def fn(world):
        if world.rank:
            with pytest.raises(RankMismatch) as raised:
                Part(1).weight(world)
            assert "on all ranks or on none" in raised.value.__notes__[0]
        else:
            with pytest.raises(RankMismatch):
                world.allreduce_(np.zeros(5, np.float32))

    run_ranks(fn, 2)
