"""Repartitioners: exact counts, no object lost or doubled, the same layout every time."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hvdspark import DefaultRepartitioner, EqualRepartitioner, NoOpRepartitioner, Repartitioner
from hvdspark.config import Configuration
from hvdspark.data import Repartition, RepartitionStrategy, repartition
from hvdspark.data.repartition import AnyRepartitioner, equal_sizes
from hvdspark.errors import ConfigurationError

on_spark = [pytest.mark.spark, pytest.mark.timeout(300)]
SIZES = [[160], [0, 0, 0], [1], [5, 0, 3, 0, 20], [31, 33, 32], [1000, 1], [7] * 6]


def make(spark, sizes):
    """An RDD of numbers, in order, with partitions of these sizes."""
    parts, start = [], 0
    for size in sizes:
        parts.append(list(range(start, start + size)))
        start += size
    return spark.sparkContext.parallelize(parts, len(parts)).flatMap(lambda part: part)


def layout(rdd):
    return rdd.glom().collect()


class Reversing(Repartitioner):
    """A user's own."""

    def repartition(self, rdd, min_objects_per_partition, num_executors):
        return rdd.coalesce(1).map(lambda each: each)


@given(total=st.integers(0, 5000), parts=st.integers(1, 60))
def test_equal_sizes(total, parts):
    sizes = equal_sizes(total, parts)
    assert len(sizes) == parts
    assert sum(sizes) == total
    assert max(sizes) - min(sizes) <= 1


class TestOnSpark:
    pytestmark = on_spark

    @pytest.mark.parametrize("sizes", SIZES)
    @pytest.mark.parametrize("executors", [1, 3, 7])
    def test_equal_partitions_differ_by_at_most_one_object(self, spark, sizes, executors):
        found = layout(EqualRepartitioner().repartition(make(spark, sizes), 1, executors))
        assert len(found) == executors
        counts = [len(part) for part in found]
        assert max(counts) - min(counts) <= 1
        assert [each for part in found for each in part] == list(range(sum(sizes)))

    @pytest.mark.parametrize(
        ("sizes", "limit", "objects", "expected"),
        [([160], 5000, 32, 5), ([161], 5000, 32, 6), ([160], 3, 32, 3), ([0, 0], 10, 1, 1), ([3, 0, 4], 50, 1, 7)],
    )
    def test_default_makes_a_partition_for_each_minibatch_up_to_a_limit(self, spark, sizes, limit, objects, expected):
        found = layout(DefaultRepartitioner(limit).repartition(make(spark, sizes), objects, num_executors=2))
        assert [len(part) for part in found] == equal_sizes(sum(sizes), expected)
        assert [each for part in found for each in part] == list(range(sum(sizes)))

    def test_what_is_equal_already_is_left_and_so_is_everything_by_no_op(self, spark):
        rdd = make(spark, [3, 4, 3])
        assert EqualRepartitioner().repartition(rdd, 1, 3) is rdd
        assert DefaultRepartitioner().repartition(rdd, 4, 9) is rdd
        assert EqualRepartitioner().repartition(rdd, 1, 2) is not rdd
        assert NoOpRepartitioner().repartition(rdd, 1, 99) is rdd

    @pytest.mark.parametrize("strategy", list(RepartitionStrategy))
    @pytest.mark.parametrize("sizes", [[400, 0, 100, 2], [0], [300, 300], [1, 2, 3, 4, 5, 6, 7, 900]])
    def test_no_strategy_loses_or_doubles_an_object(self, spark, sizes, strategy):
        moved = repartition(make(spark, sizes), 3, strategy=strategy)
        assert moved.getNumPartitions() == 3
        assert sorted(moved.collect()) == list(range(sum(sizes)))

    @pytest.mark.parametrize("strategy", ["balanced", "approximate_balanced"])
    def test_a_layout_is_the_same_every_time_and_keeps_order(self, spark, strategy):
        found = [layout(repartition(make(spark, [90, 3, 200]), 4, strategy=strategy, seed=5)) for _ in range(3)]
        assert found[0] == found[1] == found[2]
        assert all(part == sorted(part) for part in found[0])

    def test_approximate_balance_is_near_and_moves_the_surplus_only(self, spark):
        found = layout(repartition(make(spark, [3000, 200, 100, 0]), 4, strategy="approximate_balanced", seed=1))
        # 825 on average; a binomial's standard deviation is below 27
        assert all(700 < len(part) < 950 for part in found)
        assert set(range(3000, 3200)) <= set(found[1])
        assert set(range(3200, 3300)) <= set(found[2])
        other = layout(repartition(make(spark, [3000, 200, 100, 0]), 4, strategy="approximate_balanced", seed=2))
        assert found != other

    def test_an_rdd_that_changes_between_jobs_loses_nothing(self, spark, tmp_path):
        def grown(numbers):  # more at each job
            (tmp_path / f"{random.random()}").touch()
            return [*numbers, *range(1000, 1000 + 3 * len(list(tmp_path.iterdir())))]

        rdd = make(spark, [10]).mapPartitions(grown)
        found = layout(EqualRepartitioner().repartition(rdd, 1, 4))
        assert sorted(each for part in found for each in part) == [*range(10), *range(1000, 1006)]
        assert [len(part) for part in found[:3]] == [4, 3, 3]

    @pytest.mark.parametrize(("when", "moved"), [("never", False), ("always", True)])
    def test_when(self, spark, when, moved):
        rdd = make(spark, [9, 1])
        assert (repartition(rdd, 2, when=when) is not rdd) == moved

    def test_only_where_the_number_of_partitions_differs(self, spark):
        rdd, when = make(spark, [9, 1]), Repartition.NUM_PARTITIONS_WORKERS_DIFFERS
        assert repartition(rdd, 2, when=when) is rdd
        assert [len(part) for part in layout(repartition(rdd, 5, when=when))] == [2] * 5

    @pytest.mark.parametrize(
        ("call", "text"),
        [
            (lambda rdd: repartition(rdd, 0), "num_partitions: a whole number from 1"),
            (lambda rdd: repartition(rdd, 2, when="now"), "when: one of never, always, num_partitions_workers_differs"),
            (lambda rdd: repartition(rdd, 2, strategy="best"), "strategy: one of spark_default, balanced"),
            (lambda rdd: EqualRepartitioner().repartition(rdd, 1, 0), "num_executors"),
            (lambda rdd: DefaultRepartitioner().repartition(rdd, 0, 1), "min_objects_per_partition"),
        ],
    )
    def test_what_is_out_of_range_is_refused(self, spark, call, text):
        with pytest.raises(ConfigurationError, match=text):
            call(make(spark, [1]))

    def test_a_users_own_is_one_too(self, spark):
        assert layout(Reversing().repartition(make(spark, [2, 1]), 1, 1)) == [[0, 1, 2]]


class Options(Configuration):
    repartitioner: AnyRepartitioner = DefaultRepartitioner()
    repartition: Repartition = Repartition.ALWAYS
    repartition_strategy: RepartitionStrategy = RepartitionStrategy.BALANCED


@pytest.mark.parametrize("made", [DefaultRepartitioner(7), EqualRepartitioner(), NoOpRepartitioner()])
def test_text_and_back(made):
    assert Repartitioner.from_json(made.to_json()) == made
    assert Repartitioner.from_yaml(made.to_yaml()) == made
    assert type(made).from_json(made.to_json()) == made
    options = Options(repartitioner=made, repartition="never", repartition_strategy="spark_default")
    assert Options.from_json(options.to_json()) == options
    assert options.repartition is Repartition.NEVER


def test_a_users_own_comes_back_once_it_is_known(monkeypatch):
    with pytest.raises(ConfigurationError, match="'Reversing' is not known here"):
        Repartitioner.from_json(Reversing().to_json())
    monkeypatch.setattr(Repartitioner, "known", [*Repartitioner.known, Reversing])
    assert isinstance(Repartitioner.from_json(Reversing().to_json()), Reversing)


def test_bad_options_are_named():
    with pytest.raises(ConfigurationError, match=r"DefaultRepartitioner\.max_partitions"):
        DefaultRepartitioner(0)
    with pytest.raises(ConfigurationError, match=r"Options\.repartition: "):
        Options(repartition="sometimes")
