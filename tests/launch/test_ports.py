"""A port that is told before it is listened on: nobody else gets it, and PyTorch can take it."""

import datetime as dt
import errno
import socket
import struct
import sys

import pytest

from hvdspark_launch.environment import LOOPBACK
from hvdspark_launch.errors import LaunchError
from hvdspark_launch.ports import ReservedPort, address_towards

IP_LOCAL_PORT_RANGE = 51  # linux/in.h, since Linux 6.3: from which ports the system chooses for a socket


def choosing_from(port):
    """A socket for which the system can choose this port only."""
    chooser = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    chooser.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        chooser.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("I", port | port << 16))
    except OSError:
        chooser.close()
        pytest.skip("this system cannot be told from which ports to choose")
    return chooser


@pytest.mark.skipif(sys.platform != "linux", reason="ports are reserved on Linux only")
def test_the_system_gives_it_to_nobody_else():
    with ReservedPort(LOOPBACK) as reserved:
        for address in (LOOPBACK, "0.0.0.0"):
            with choosing_from(reserved.port) as other, pytest.raises(OSError, match="Errno") as refused:
                other.bind((address, 0))
            assert refused.value.errno == errno.EADDRINUSE
        with socket.create_server((LOOPBACK, 0)) as server, choosing_from(reserved.port) as client:
            with pytest.raises(OSError, match="Errno") as refused:
                client.connect(server.getsockname())
            assert refused.value.errno == errno.EADDRNOTAVAIL
    with choosing_from(reserved.port) as other:
        other.bind((LOOPBACK, 0))
        assert other.getsockname()[1] == reserved.port


@pytest.mark.parametrize("use_libuv", [True, False])
def test_torch_listens_there_while_it_is_reserved(use_libuv):
    import torch.distributed as dist  # noqa: TID251

    options = {"wait_for_workers": False, "timeout": dt.timedelta(seconds=10), "use_libuv": use_libuv}
    with ReservedPort(LOOPBACK) as reserved:
        server = dist.TCPStore(LOOPBACK, reserved.port, is_master=True, **options)
        client = dist.TCPStore(LOOPBACK, reserved.port, is_master=False, **options)
        client.set("key", "value")
        assert server.get("key") == b"value"


def test_an_address_of_another_host_is_refused():
    with pytest.raises(LaunchError, match=r"reserved on 203\.0\.113\.9"):
        ReservedPort("203.0.113.9")


def test_the_way_to_this_host_starts_at_this_host():
    assert address_towards(LOOPBACK) == LOOPBACK
