"""A port for rank 0 to listen on later, which all ranks know before."""

import socket
import sys
from types import TracebackType
from typing import Self

from hvdspark_launch.errors import LaunchError

__all__ = ["ReservedPort", "address_towards"]


class ReservedPort:
    """A TCP port of an address that the system hands out to nobody else, though nobody listens there yet.

    PyTorch's rank 0 listens on a port of which the others are told before. One that was only looked up would be free
    until then, and another run could take it. A socket that is bound with SO_REUSEADDR and does not listen keeps the
    port, and lets whoever names it, and sets that flag too as PyTorch does, listen there. So it is on Linux; elsewhere
    the port is let go at once, and only rarely handed out again so soon.

    Parameters
    ----------
    address : str
        An IPv4 address of this host.

    Attributes
    ----------
    port : int
        The port, held until the end of the context.

    Raises
    ------
    LaunchError
        The address is none of this host's.
    """

    def __init__(self, address: str) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((address, 0))
        except OSError as error:
            self._socket.close()
            raise LaunchError(f"no port can be reserved on {address}: {error}") from error
        self.port = int(self._socket.getsockname()[1])
        if sys.platform != "linux":
            self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()


def address_towards(address: str) -> str:
    """Return the IPv4 address of this host by which it reaches another one; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # any port: a datagram socket only looks up the route
        return str(probe.getsockname()[0])
