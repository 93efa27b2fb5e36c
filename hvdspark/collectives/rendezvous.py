"""Horovod's meeting place under Gloo, cleared of the addresses that a start leaves behind.

Its server forgets the addresses of a group once all ranks of it have said that they are connected. But whenever one
group is complete it forgets how many had said so in all others (``RendezvousHandler.do_DELETE`` of Horovod 0.28.1
clears ``finished_list`` whole): ranks of a host that say so one before and one after are never two. The addresses then
stay, and the next start in the same processes may take a peer's old one: "Connection refused", and the process aborts.
"""

from __future__ import annotations

import http.client
import logging
import os
from typing import Any

__all__ = ["forget_addresses"]

_TIMEOUT_S = 10.0
_FOUND = 200


def forget_addresses(hvd: Any) -> None:
    """Have the server forget the addresses of this start; all ranks call it when Horovod has started."""
    address, port = (os.environ.get(f"HOROVOD_GLOO_RENDEZVOUS_{name}") for name in ("ADDR", "PORT"))
    if address is None or port is None or hvd.size() == 1 or hvd.mpi_enabled():
        return
    hvd.barrier()  # all have said that they are connected
    groups = (
        ("global", hvd.rank()),
        (f"local_{os.environ.get('HOROVOD_HOSTNAME', 'localhost')}", hvd.local_rank()),
        (f"cross_{hvd.local_rank()}", hvd.cross_rank()),
    )
    try:
        for group, place in groups:
            if place == 0:  # one of its ranks speaks for all
                _forget(address, int(port), group, 2 * hvd.size() + 8)
    except (OSError, http.client.HTTPException) as error:
        logging.getLogger("hvdspark").warning(
            "Horovod's rendezvous server did not answer (%s): starting Horovod again in these processes may fail", error
        )
    hvd.barrier()  # nobody starts again before


def _forget(address: str, port: int, group: str, tries: int) -> None:
    """Say for ranks that they are connected until the server holds no address any more: it counts, and asks not who."""
    for _ in range(tries):
        if _request(address, port, "GET", f"/{group}/0") != _FOUND:
            return
        _request(address, port, "DELETE", f"/{group}/0")


def _request(address: str, port: int, method: str, path: str) -> int:
    connection = http.client.HTTPConnection(address, port, timeout=_TIMEOUT_S)
    try:
        connection.request(method, path)
        response = connection.getresponse()
        response.read()
        return response.status
    finally:
        connection.close()
