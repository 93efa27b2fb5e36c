"""The law of threads: what was started in the background comes first, on all ranks and every transport."""

import threading
import time
from functools import partial

import numpy as np
import pytest

from contracts.messages import check_gather
from hvdspark.errors import CollectiveError


def several(collective, log, pause_s, goes_on=None):
    """Two operations with a gap, into which another thread's could fall, once the caller is seen to go on."""
    assert goes_on is None or goes_on.wait(30), "start waits for what it starts"
    collective.barrier()
    time.sleep(pause_s)
    check_gather(collective, lambda rank: 20 + rank)
    log.append("started")


def what_was_started_comes_first(collective):
    log = []
    local = collective.local()
    for call in range(3):
        goes_on = threading.Event()
        future = collective.start(partial(several, collective, log, 0.02 * collective.rank, goes_on))
        log.append("goes on")
        goes_on.set()
        if call == 1:
            local.barrier()
        array = np.full(5, collective.rank)
        collective.allreduce_(array)
        assert future.done()
        assert array.tolist() == [sum(range(collective.size))] * 5
    assert log == ["goes on", "started"] * 3


def closing_waits_for_what_was_started(collective):
    log = []
    collective.start(lambda: several(collective, log, 0.05 * collective.rank))
    collective.start(lambda: several(collective, log, 0.0))
    collective.close()
    assert log == ["started"] * 2
    with pytest.raises(CollectiveError, match="start: this collective is closed"):
        collective.start(list)


def bytes_are_counted_by_thread(collective):
    everywhere, here = collective.sent_bytes, collective.thread_sent_bytes
    collective.start(collective.barrier).result()
    assert collective.thread_sent_bytes == here, "another thread sent them"
    assert (collective.sent_bytes > everywhere) == (collective.name != "solo")
    everywhere = collective.sent_bytes
    collective.barrier()
    assert collective.thread_sent_bytes - here == collective.sent_bytes - everywhere


LAWS = [what_was_started_comes_first, bytes_are_counted_by_thread]
ENDS = [closing_waits_for_what_was_started]
