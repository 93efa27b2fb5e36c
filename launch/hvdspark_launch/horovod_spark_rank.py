"""What runs in each process that `horovod.spark.run` starts: one rank of a `HorovodSparkLauncher`."""

import os
import socket
from dataclasses import dataclass
from typing import Any

from hvdspark_launch.closure import load_call
from hvdspark_launch.errors import LaunchError
from hvdspark_launch.facts import Facts, check_versions, versions_of
from hvdspark_launch.outcome import Outcome, capture
from hvdspark_launch.rendezvous import Marks

__all__ = ["Orders", "run_rank"]


@dataclass(frozen=True)
class Orders:
    """What the driver tells every rank.

    Attributes
    ----------
    call : bytes
        The pickled call (`closure.dump_call`).
    versions : dict
        Of Python and packages on the driver.
    stop_grace_s : float
        See `HorovodSparkLauncher`.
    """

    call: bytes
    versions: dict[str, str | None]
    stop_grace_s: float


def run_rank(orders: Orders) -> bytes:
    """Run one rank; return its outcome as bytes.

    Where a rank failed and the others do not notice, since they wait for something else than Horovod, it tells their
    processes to end; Horovod itself would leave them.
    """
    rank, host = int(os.environ["HOROVOD_RANK"]), socket.gethostname()
    marks = Marks(
        os.environ["HOROVOD_GLOO_RENDEZVOUS_ADDR"],
        int(os.environ["HOROVOD_GLOO_RENDEZVOUS_PORT"]),
        int(os.environ["HOROVOD_SIZE"]),
    )
    watched = marks.watch(_end_without_outcome)
    facts = Facts(rank, host, "", 0, versions_of(name for name in orders.versions if name != "python"), [])
    try:
        check_versions(orders.versions, [facts])
    except LaunchError as error:
        outcome = Outcome.of_refusal(rank, host, error)
    else:

        def call() -> Any:
            return load_call(orders.call)()

        outcome = capture(call, rank, host)
    watched.set()
    marks.set(rank)
    if not outcome.ok and not marks.wait(orders.stop_grace_s):
        marks.abort()
    return outcome.to_bytes()


def _end_without_outcome() -> None:
    # Not with an exit code of failure: Horovod would cancel the Spark job, and with it the outcome of the rank that
    # has something to say.
    os._exit(0)
