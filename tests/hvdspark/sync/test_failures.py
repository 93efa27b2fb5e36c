"""A rank that cannot send its part tells the others, and none waits."""

import numpy as np
import pytest

from hvdspark.collectives import run_ranks
from hvdspark.errors import RankLost
from hvdspark.sync.failures import deliver, failure_message


def test_all_ranks_raise_what_one_of_them_could_not_send():
    def fn(world):
        failure = ValueError("nothing to say: ü") if world.rank == 1 else None
        message = np.zeros(9, np.uint8) if failure is None else failure_message(failure)
        with pytest.raises(ValueError if failure else RankLost, match="nothing to say: ü") as raised:
            deliver(lambda: world.allgather(message), failure, range(3), 7)
        assert failure is not None or "rank 1 could not send its part of step 7" in str(raised.value)

    run_ranks(fn, 3)


def test_where_nobody_failed_the_messages_are_returned():
    def fn(world):
        message = np.full(world.rank, world.rank, np.uint8)  # none, and shorter ones than a mark
        return [each.tolist() for each in deliver(lambda: world.allgather(message), None, range(3), 0)]

    assert run_ranks(fn, 3) == [[[], [1], [2, 2]]] * 3


def test_its_own_failure_comes_before_that_others_are_gone():
    def gone():
        raise RankLost("rank 0 is gone")

    failure = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as raised:
        deliver(gone, failure, range(2), 0)
    assert isinstance(raised.value.__cause__, RankLost)
    with pytest.raises(RankLost, match="is gone"):
        deliver(gone, None, range(2), 0)
