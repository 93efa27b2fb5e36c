"""The meeting point: one address, Horovod's protocol, and the marks of those that have ended."""

import http.client
import socket
import sys
import threading
import time

import pytest

from hvdspark_launch.environment import LOOPBACK
from hvdspark_launch.errors import LaunchError
from hvdspark_launch.keys import KeyServer
from hvdspark_launch.rendezvous import Marks, Rendezvous

pytestmark = pytest.mark.horovod


@pytest.fixture(params=["horovod", "none"])
def rendezvous(request, monkeypatch):
    """Horovod's own server, and the one where there is no Horovod."""
    if request.param == "none":
        monkeypatch.setitem(sys.modules, "horovod.runner.http", None)
    with Rendezvous(LOOPBACK) as running:
        assert isinstance(running._server, KeyServer) == (request.param == "none")
        yield running


def test_it_listens_on_one_address_and_not_after_the_end():
    with Rendezvous(LOOPBACK) as running:
        port = running.port
        socket.create_connection((LOOPBACK, port), timeout=5).close()
        others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {LOOPBACK}
        for other in [*others, "127.0.0.2"]:
            with pytest.raises(OSError, match="refused"):
                socket.create_connection((other, port), timeout=5)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection((LOOPBACK, port), timeout=5)


def test_an_address_of_another_host_is_refused():
    with pytest.raises(LaunchError, match=r"cannot listen on 203\.0\.113\.9"):
        Rendezvous("203.0.113.9")


def test_waiting_ends_when_all_are_marked(rendezvous):
    marks = Marks(rendezvous.address, rendezvous.port, 2)
    assert marks.set(0)
    assert not marks.wait(0.2)
    threading.Timer(0.2, marks.set, (1,)).start()
    begin = time.monotonic()
    assert marks.wait(5)
    assert time.monotonic() - begin < 3


def test_too_much_is_not_kept(monkeypatch):
    monkeypatch.setitem(sys.modules, "horovod.runner.http", None)
    with Rendezvous(LOOPBACK) as running:
        connection = http.client.HTTPConnection(running.address, running.port, timeout=5)
        connection.request("PUT", "/hvdspark/large", body=b"0" * 70_000)
        assert connection.getresponse().status == 413
        connection.close()
        with pytest.raises(LaunchError, match="large"):
            Marks(running.address, running.port, 1).ask("large", 0)


def test_what_a_rank_tells_the_others_hear(rendezvous):
    first, second = (Marks(rendezvous.address, rendezvous.port, 2) for _ in range(2))
    threading.Timer(0.2, first.tell, ("store", "10.0.0.1:99")).start()
    assert second.ask("store", 5) == "10.0.0.1:99"
    with pytest.raises(LaunchError, match=r"'other' within 0\.2 s"):
        second.ask("other", 0.2)


def test_a_rendezvous_that_is_gone_is_told():
    with Rendezvous(LOOPBACK) as running:
        marks = Marks(running.address, running.port, 1)
    assert not marks.set(0)
    assert not marks.wait(None)


def test_marks_set_before_the_ranks_are_known_are_kept(rendezvous):
    from hvdspark_launch.environment import places

    marks = Marks(rendezvous.address, rendezvous.port, 1)
    marks.set(0)
    rendezvous.expect(places(["a"]))
    assert marks.wait(1)


def test_an_abort_reaches_those_that_watch_and_no_others(rendezvous):
    marks = Marks(rendezvous.address, rendezvous.port, 2)
    heard, unheard = threading.Event(), threading.Event()
    marks.watch(heard.set)
    marks.watch(unheard.set).set()
    assert not heard.wait(0.2)
    marks.abort()
    assert heard.wait(5)
    assert not unheard.wait(1.5)
