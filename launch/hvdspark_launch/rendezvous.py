"""The meeting point of the ranks: Horovod's own static rendezvous, where it is installed, bound to one address.

It stores bytes and unpickles nothing (unlike Horovod's elastic rendezvous, CVE-2024-10190). It asks nobody for a
password: whoever reaches the port can disturb a run, but not run code. It therefore listens on one address only,
and only as long as the run lasts.

Besides Horovod's keys it keeps one mark for each rank that has ended, so that the process that serves it knows when
nobody needs it any more, and a rank that failed knows whether the others noticed.
"""

import http.client
import socketserver
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from hvdspark_launch import keys
from hvdspark_launch.environment import Place
from hvdspark_launch.errors import LaunchError

__all__ = ["Marks", "Rendezvous"]

_SCOPE = "hvdspark"
_REQUEST_TIMEOUT_S = 5.0
_POLL_S = 0.05
_WATCH_S = 1.0


class Rendezvous:
    """A rendezvous server in a thread of this process; a context manager.

    Parameters
    ----------
    address : str
        The IPv4 address to listen on. The system chooses the port, and it is held from then on.

    Raises
    ------
    LaunchError
        The address cannot be listened on.
    """

    def __init__(self, address: str) -> None:
        try:
            self._server = _bound(address)
        except OSError as error:
            raise LaunchError(f"the rendezvous cannot listen on {address}: {error}") from error
        self.address = address
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(_POLL_S,), name="hvdspark-rendezvous", daemon=True
        )

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def expect(self, ranks: Sequence[Place]) -> None:
        """Tell the server who will come: it forgets a scope once all of its ranks have said that they are done.

        Without it a second `hvd.init()` in the same run would find the addresses of the first.
        """
        # Not through the server's own init(): that also forgets what ranks that were faster have already left.
        for place in ranks:
            self._server.scope_size["global"] = place.size
            self._server.scope_size[f"local_host-{place.host}"] = place.local_size
            self._server.scope_size[f"cross_{place.local_rank}"] = place.cross_size


class Marks:
    """Who of a run has ended, as told to its rendezvous.

    Parameters
    ----------
    address, port
        The rendezvous.
    size : int
        Number of ranks.
    """

    def __init__(self, address: str, port: int, size: int) -> None:
        self._address = address
        self._port = port
        self._size = size

    def set(self, rank: int) -> bool:
        """Mark a rank as ended. Returns False if the rendezvous is gone: the run has ended without us."""
        return self._put(f"ended-{rank}") == http.client.OK

    def wait(self, timeout_s: float | None) -> bool:
        """Wait until all ranks are marked. Returns whether they are; False too if the rendezvous is gone."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        missing = list(range(self._size))
        pause_s = _POLL_S
        while True:
            while missing:
                status, _ = self._request("GET", f"ended-{missing[-1]}")
                if status is None:
                    return False
                if status != http.client.OK:
                    break
                missing.pop()
            if not missing:
                return True
            if deadline is not None and time.monotonic() >= deadline:
                return False
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 0.5)

    def abort(self) -> None:
        """Tell the ranks that `watch` that the run is lost."""
        self._put("aborted")

    def watch(self, on_abort: Callable[[], None]) -> threading.Event:
        """Call a function, in a thread of its own, as soon as another rank says that the run is lost.

        Returns
        -------
        threading.Event
            Setting it ends the watch.
        """
        over = threading.Event()

        def work() -> None:
            while not over.wait(_WATCH_S):
                if self._request("GET", "aborted")[0] != http.client.NOT_FOUND and not over.is_set():
                    on_abort()
                    return

        threading.Thread(target=work, name="hvdspark-watch", daemon=True).start()
        return over

    def tell(self, key: str, text: str) -> None:
        """Leave a text for the other ranks under a key of this run."""
        self._put(key, text.encode())

    def ask(self, key: str, timeout_s: float) -> str:
        """Return what a rank told under a key.

        Raises
        ------
        LaunchError
            Nobody has within the time.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            status, body = self._request("GET", key)
            if status == http.client.OK:
                return body.decode()
            if time.monotonic() >= deadline:
                raise LaunchError(
                    f"no rank told its {key!r} within {timeout_s:g} s: rank 0 did not start, or has ended"
                )
            time.sleep(_POLL_S)

    def _put(self, key: str, body: bytes = b"1") -> int | None:
        return self._request("PUT", key, body)[0]

    def _request(self, method: str, key: str, body: bytes | None = None) -> tuple[int | None, bytes]:
        connection = http.client.HTTPConnection(self._address, self._port, timeout=_REQUEST_TIMEOUT_S)
        try:
            connection.request(method, f"/{_SCOPE}/{key}", body=body)
            response = connection.getresponse()
            return response.status, response.read()
        except OSError:
            return None, b""
        finally:
            connection.close()


def _bound(address: str) -> Any:
    """Return a server on a port of its own: Horovod's, or one of the same keys where there is no Horovod."""
    try:
        from horovod.runner.http import http_server
    except ImportError:  # ranks then meet over PyTorch alone
        return keys.KeyServer((address, 0), keys.KeyHandler)

    class Server(http_server.RendezvousHTTPServer):  # type: ignore[misc]
        # A handler that waits for a slow client must not keep this process from ending.
        daemon_threads = True
        # Ranks ask all at once, and again until the key is there.
        request_queue_size = 128

        def server_bind(self) -> None:
            # http.server looks its own name up in the DNS here, which takes seconds on a host without one.
            socketserver.TCPServer.server_bind(self)
            self.server_name, self.server_port = self.server_address[:2]

    return Server((address, 0), http_server.RendezvousHandler, 0)
