"""A server of bytes under keys, as much as launchers need where Horovod and its own server are not installed."""

import http.server
import socketserver
import threading
from typing import Final

__all__ = ["KeyHandler", "KeyServer"]

_MAX_BYTES: Final = 1 << 16  # what is left here is an address or a mark


class KeyServer(socketserver.ThreadingTCPServer):
    """Keeps what clients PUT under a path, and gives it to those that GET it; 404 where there is nothing yet.

    Attributes
    ----------
    values : dict
        Bytes by path.
    scope_size : dict
        How many ranks each of Horovod's groups has, as its own server keeps it; nobody asks this one.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], handler: "type[KeyHandler]") -> None:
        self.values: dict[str, bytes] = {}
        self.scope_size: dict[str, int] = {}
        self.lock = threading.Lock()
        super().__init__(address, handler)


class KeyHandler(http.server.BaseHTTPRequestHandler):
    """Answers one client of a `KeyServer`."""

    server: KeyServer
    timeout = 10.0  # seconds that a client may take to say what it wants

    def do_GET(self) -> None:
        """Give what is under the path."""
        with self.server.lock:
            value = self.server.values.get(self.path)
        self._answer(404 if value is None else 200, value or b"")

    def do_PUT(self) -> None:
        """Keep the body under the path."""
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _MAX_BYTES:
            self._answer(413, b"")
            return
        value = self.rfile.read(int(length))
        with self.server.lock:
            self.server.values[self.path] = value
        self._answer(200, b"")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name for it
        """Say nothing: ranks ask many times."""

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
