"""One thread uses a collective at a time; what was started in the background comes first, on all ranks."""

import threading
import time

import numpy as np
import pytest

from contracts.messages import check_gather
from contracts.turns import several
from hvdspark.collectives import open_collective, run_ranks
from hvdspark.errors import CollectiveError, RankLost


def test_what_is_started_may_fail_and_the_collective_goes_on():
    def live(collective):
        future = collective.start(lambda: [][collective.rank])
        check_gather(collective, lambda rank: 10 + rank)
        with pytest.raises(IndexError):
            future.result()

    run_ranks(live, 2, timeout_s=20)


@pytest.mark.parametrize("is_part", [False, True])
def test_a_second_thread_is_refused(is_part):
    def live(collective):
        used = collective.local() if is_part else collective
        if collective.rank == 1:
            time.sleep(0.3)
            used.barrier()
            return ""
        other = threading.Thread(target=used.barrier, name="loader")
        other.start()
        time.sleep(0.1)
        with pytest.raises(CollectiveError, match="allreduce_: the thread 'loader', in barrier, is using") as refused:
            collective.allreduce_(np.zeros(3, np.float32))
        other.join()
        return str(refused.value)

    assert "open a collective for each thread" in run_ranks(live, 2, timeout_s=20)[0]


class Owner:
    def __init__(self, collective, log):
        self.collective, self.log = collective, log

    def finish(self):
        check_gather(self.collective, lambda rank: 5 + rank)
        self.log.append("finished")

    def fail(self):
        raise KeyError("not finished")


def test_closing_finishes_what_asked_for_it_first():
    def live(collective):
        log = []
        owner = Owner(collective, log)
        collective.unfinished.extend([owner.finish, owner.fail])
        collective.unfinished.remove(owner.fail)
        collective.start(lambda: several(collective, log, 0.02))
        collective.close()
        collective.close()
        with pytest.raises(CollectiveError, match="start: this collective is closed"):
            collective.start(list)
        return log

    assert run_ranks(live, 2, timeout_s=20) == [["started", "finished"]] * 2


def test_what_cannot_be_finished_ends_the_collective():
    def live(collective):
        owner = Owner(collective, [])
        if collective.rank == 1:
            collective.unfinished.append(owner.fail)
        with pytest.raises(KeyError if collective.rank == 1 else RankLost), collective:
            check_gather(collective, lambda rank: 5)

    run_ranks(live, 2, timeout_s=20)


def test_aborting_waits_for_nothing():
    def live(collective):
        own = open_collective("threads")
        if own.rank == 1:
            time.sleep(0.3)
        else:
            waiting = own.start(own.barrier)
            time.sleep(0.1)
            own.abort(ValueError("mine"))
            with pytest.raises(RankLost, match="mine"):
                waiting.result(timeout=10)
        collective.barrier()

    run_ranks(live, 2, timeout_s=20)


def test_no_thread_is_left():
    def live(collective):
        collective.start(list).result()

    run_ranks(live, 2)
    deadline = time.monotonic() + 5
    while any("hvdspark-exchange" in each.name for each in threading.enumerate()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
