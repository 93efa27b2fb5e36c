"""What runs in each process that `horovod.spark.run` starts: one rank of a `HorovodSparkLauncher`."""

import os
import socket
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from hvdspark_launch.closure import load_call
from hvdspark_launch.environment import Place, interface_of, torch_variables
from hvdspark_launch.errors import LaunchError
from hvdspark_launch.facts import Facts, check_gpus, check_versions, versions_of
from hvdspark_launch.outcome import Outcome, capture
from hvdspark_launch.ports import ReservedPort, address_towards
from hvdspark_launch.rendezvous import Marks
from hvdspark_launch.threads import FRESH_PROCESS, Threads, torch_threads

__all__ = ["Orders", "run_rank"]

_MEETING_S = 60.0


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
    env : dict
        What the user gives to all ranks.
    threads : Threads
        What the driver knows of the threads of a rank.
    gpus : bool
        Whether each rank gets a GPU of its own, where Spark gave it any.
    """

    call: bytes
    versions: dict[str, str | None]
    stop_grace_s: float
    env: dict[str, str]
    threads: Threads
    gpus: bool


def run_rank(orders: Orders) -> bytes:
    """Run one rank; return its outcome as bytes.

    Where a rank failed and the others do not notice, since they wait for something else than Horovod, it tells their
    processes to end; Horovod itself would leave them.
    """
    from horovod.spark.task import get_available_devices

    rank, host = int(os.environ["HOROVOD_RANK"]), socket.gethostname()
    marks = Marks(
        os.environ["HOROVOD_GLOO_RENDEZVOUS_ADDR"],
        int(os.environ["HOROVOD_GLOO_RENDEZVOUS_PORT"]),
        int(os.environ["HOROVOD_SIZE"]),
    )
    watched = marks.watch(_end_without_outcome)
    share = _set_threads(orders)
    gpus = list(get_available_devices()) if orders.gpus else []
    os.environ.pop("HVDSPARK_GPU_ADDRESS", None)
    if gpus:
        os.environ["HVDSPARK_GPU_ADDRESS"] = gpus[0]
    facts = Facts(rank, host, "", 0, 0, versions_of(name for name in orders.versions if name != "python"), gpus)
    with ExitStack() as stack:
        try:
            check_versions(orders.versions, [facts])
            check_gpus([facts])  # ranks do not meet here: whether two have the same one, they must find out themselves
            _tell_torch(marks, stack)
        except LaunchError as error:
            outcome = Outcome.of_refusal(rank, host, error)
        else:

            def call() -> Any:
                return load_call(orders.call)()

            with torch_threads(share):
                outcome = capture(call, rank, host)
    watched.set()
    marks.set(rank)
    if not outcome.ok and not marks.wait(orders.stop_grace_s):
        marks.abort()
    return outcome.to_bytes()


def _set_threads(orders: Orders) -> int:
    """Set the variables of this rank's threads and return their number.

    Horovod gives all ranks the same environment, so it is done here, before the call loads what reads it.
    """
    local_size = int(os.environ["HOROVOD_LOCAL_SIZE"])
    os.environ.update(orders.threads.variables(local_size, FRESH_PROCESS, {**os.environ, **orders.env}))
    return orders.threads.share(local_size)


def _tell_torch(marks: Marks, stack: ExitStack) -> None:
    """Set PyTorch's variables: rank 0 reserves a port, and the others hear of it through Horovod's rendezvous."""
    rank, size, local_rank, local_size, cross_rank, cross_size = (
        int(os.environ[f"HOROVOD_{name}"])
        for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CROSS_SIZE")
    )
    place = Place(rank, size, local_rank, local_size, cross_rank, cross_size, 0)
    address = address_towards(os.environ["HOROVOD_GLOO_RENDEZVOUS_ADDR"])
    if rank == 0:
        marks.tell("store", f"{address}:{stack.enter_context(ReservedPort(address)).port}")
    host, _, port = marks.ask("store", _MEETING_S).partition(":")
    os.environ.update(torch_variables(place, store=(host, int(port)), interface=interface_of(address)))


def _end_without_outcome() -> None:
    # Not with an exit code of failure: Horovod would cancel the Spark job, and with it the outcome of the rank that
    # has something to say.
    os._exit(0)
