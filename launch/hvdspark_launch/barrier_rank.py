"""What runs inside each task of a barrier stage: one rank of a `BarrierLauncher`."""

import os
import queue
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hvdspark_launch.closure import load_call
from hvdspark_launch.environment import (
    LOOPBACK,
    environment_restored,
    horovod_variables,
    interface_of,
    places,
    torch_variables,
)
from hvdspark_launch.errors import LaunchError, StartTimeout
from hvdspark_launch.facts import Facts, check_gpus, check_versions, versions_of
from hvdspark_launch.outcome import Outcome, RankAborted, capture
from hvdspark_launch.ports import ReservedPort
from hvdspark_launch.rendezvous import Marks, Rendezvous
from hvdspark_launch.threads import REUSED_PROCESS, Threads, torch_threads

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["SCHEMA", "Orders", "outcomes_of", "run_rank", "within"]

# Of the rows that a rank returns: its outcome as bytes, in parts that fit through any message limit on the way.
SCHEMA = "rank long, part long, parts long, data binary"
_PART_BYTES = 8 << 20


@dataclass(frozen=True)
class Orders:
    """What the driver tells every rank; it travels in Spark's own closure.

    Attributes
    ----------
    call : bytes
        The pickled call (`closure.dump_call`).
    num_proc : int
        Number of ranks.
    takes_rows : bool
        Whether the function gets the task's rows.
    versions : dict
        Of Python and packages on the driver; their names are what ranks compare.
    env : dict
        More environment variables.
    threads : Threads
        What the driver knows of the threads of a rank.
    gpus : bool
        Whether each rank gets a GPU of its own, where Spark gave it any.
    start_timeout_s, stop_grace_s : float
        See `BarrierLauncher`.
    horovod_timeout_s : int
        See `BarrierLauncher`.
    token : str
        What tells this run's own words from anything else in Spark's errors.
    """

    call: bytes
    num_proc: int
    takes_rows: bool
    versions: dict[str, str | None]
    env: dict[str, str]
    threads: Threads
    gpus: bool
    start_timeout_s: float
    stop_grace_s: float
    horovod_timeout_s: int
    token: str


def run_rank(orders: Orders, batches: "Iterator[pa.RecordBatch]") -> "Iterator[pa.RecordBatch]":
    """Run one rank in a task of a barrier stage; yield its outcome as rows of `SCHEMA`.

    Parameters
    ----------
    orders : Orders
        The driver's.
    batches : iterator of pyarrow.RecordBatch
        The task's rows.

    Raises
    ------
    RankAborted
        The rank failed, and the others would not end by themselves: Spark then ends them.
    """
    from pyspark import BarrierTaskContext

    context = BarrierTaskContext.get()
    rank, host = context.partitionId(), socket.gethostname()
    with ExitStack() as stack:
        try:
            facts, marks = _meet(orders, context, stack)
        except LaunchError as error:
            # The others wait for this rank, and only Spark can end them.
            raise RankAborted(Outcome.of_refusal(rank, host, error), orders.token) from error
        try:
            check_versions(orders.versions, facts)
            check_gpus(facts)
        except LaunchError as error:
            # All ranks have the same facts and refuse alike: none waits for another.
            outcome = Outcome.of_refusal(rank, host, error)
        else:
            outcome = _run(orders, rank, facts, batches)
            _part(orders, outcome, marks)
    if not orders.takes_rows:
        # Spark keeps a Python worker, with all that it has imported, for the next job only if its input was read to
        # the end. The user's rows are not read for that: there may be many left.
        deque(batches, maxlen=0)
    yield from _rows(outcome)


def _meet(orders: Orders, context: Any, stack: ExitStack) -> tuple[list[Facts], Marks]:
    """Exchange facts with all ranks; on rank 0, start the rendezvous and reserve a port for PyTorch's before."""
    hosts = [info.address.rpartition(":")[0] for info in context.getTaskInfos()]
    if len(hosts) != orders.num_proc:
        raise LaunchError(f"Spark runs {len(hosts)} tasks where {orders.num_proc} ranks were asked for")
    rank = context.partitionId()
    address = _address(hosts, rank)
    # A single rank meets nobody; Horovod then needs no rendezvous, and need not be installed.
    rendezvous = stack.enter_context(Rendezvous(address)) if rank == 0 and orders.num_proc > 1 else None
    store = stack.enter_context(ReservedPort(address)) if rank == 0 else None
    gpus = context.resources().get("gpu") if orders.gpus else None
    mine = Facts(
        rank,
        socket.gethostname(),
        address,
        rendezvous.port if rendezvous else 0,
        store.port if store else 0,
        versions_of(name for name in orders.versions if name != "python"),
        list(gpus.addresses) if gpus else [],
        os.environ.get("CUDA_VISIBLE_DEVICES"),
    )
    answers = within(
        orders.start_timeout_s,
        lambda: context.allGather(mine.to_json()),
        f"rank {rank} on {mine.host} waited {orders.start_timeout_s:g} s for the other {orders.num_proc - 1} ranks "
        "to start; look at the executors' logs for what holds them up, or raise start_timeout_s",
    )
    try:
        facts = sorted((Facts.from_json(answer) for answer in answers), key=lambda each: each.rank)
    except ValueError as error:
        # Spark puts its own error, such as that of spark.barrier.sync.timeout, in the place of the answers.
        raise LaunchError(f"the ranks could not meet: {' '.join(answers)[:1000]}") from error
    if rendezvous:
        rendezvous.expect(places([each.site for each in facts]))
    return facts, Marks(facts[0].address, facts[0].port, orders.num_proc)


def _address(hosts: list[str], rank: int) -> str:
    """Return the IPv4 address by which the other ranks reach this one."""
    if len(set(hosts)) == 1:
        return LOOPBACK  # all on one host, whose own addresses may be behind a firewall
    host = hosts[rank].strip("[]")
    try:
        address = str(socket.getaddrinfo(host, None, socket.AF_INET)[0][4][0])
    except OSError as error:
        raise LaunchError(
            f"Spark advertises this host as {host}, which has no IPv4 address here ({error}); Horovod needs one. "
            "Set SPARK_LOCAL_IP on the host"
        ) from error
    if address.startswith("127."):
        raise LaunchError(
            f"Spark advertises this host as {host}, which is {address} here: no other host reaches it by that. "
            "Set SPARK_LOCAL_IP on the host, or mend its /etc/hosts"
        )
    return address


def within(timeout_s: float, call: Callable[[], Any], message: str) -> Any:
    """Return what a blocking function returns, or raise if that takes too long.

    The function runs in a thread, which is left behind when the time is up: Spark's own wait cannot be cut short.

    Raises
    ------
    StartTimeout
        With the message, after `timeout_s` seconds.
    """
    answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

    def work() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:  # noqa: BLE001  raised again where it is waited for
            answers.put((None, error))

    threading.Thread(target=work, name="hvdspark-meeting", daemon=True).start()
    try:
        answer, error = answers.get(timeout=timeout_s)
    except queue.Empty:
        raise StartTimeout(message) from None
    if error is not None:
        raise error
    return answer


def _run(orders: Orders, rank: int, facts: list[Facts], batches: "Iterator[pa.RecordBatch]") -> Outcome:
    host = facts[rank].host
    try:
        variables = _variables(orders, rank, facts)
    except LaunchError as error:
        return Outcome.of_refusal(rank, host, error)
    local_size = int(variables["HOROVOD_LOCAL_SIZE"])
    with environment_restored(variables), torch_threads(orders.threads.share(local_size)):
        return capture(lambda: _call(orders, batches), rank, host)


def _variables(orders: Orders, rank: int, facts: list[Facts]) -> dict[str, str]:
    mine, first = facts[rank], facts[0]
    place, interface = places([each.site for each in facts])[rank], interface_of(mine.address)
    variables = horovod_variables(
        place,
        rendezvous=(first.address, first.port) if first.port else None,
        interface=interface,
        timeout_s=orders.horovod_timeout_s,
    )
    variables |= torch_variables(place, store=(first.address, first.store_port), interface=interface)
    if mine.gpus:
        variables["HVDSPARK_GPU_ADDRESS"] = mine.gpus[0]
    threads = orders.threads.variables(
        int(variables["HOROVOD_LOCAL_SIZE"]), REUSED_PROCESS, {**os.environ, **orders.env}
    )
    return {**orders.env, **threads, **variables}


def _call(orders: Orders, batches: "Iterator[pa.RecordBatch]") -> Any:
    call = load_call(orders.call)
    return call(batches) if orders.takes_rows else call()


def _part(orders: Orders, outcome: Outcome, marks: Marks) -> None:
    """Leave the others: tell them that this rank has ended, and see to it that they end too.

    Rank 0 serves the rendezvous, so it stays until nobody needs it. A rank that failed stays until the others have
    noticed; where they have not, for they wait for something else than Horovod, it has Spark end them.
    """
    if orders.num_proc == 1 or not marks.set(outcome.rank):
        return
    if not outcome.ok:
        if not marks.wait(orders.stop_grace_s):
            raise RankAborted(outcome, orders.token)
    elif outcome.rank == 0:
        marks.wait(None)


def _rows(outcome: Outcome) -> "Iterator[pa.RecordBatch]":
    import pyarrow as pa

    data = memoryview(outcome.to_bytes())
    starts = range(0, len(data), _PART_BYTES)
    for part, start in enumerate(starts):
        columns = {
            "rank": pa.array([outcome.rank], pa.int64()),
            "part": pa.array([part], pa.int64()),
            "parts": pa.array([len(starts)], pa.int64()),
            "data": pa.array([bytes(data[start : start + _PART_BYTES])], pa.binary()),
        }
        yield pa.RecordBatch.from_pydict(columns)


def outcomes_of(rows: list[Any]) -> list[Outcome]:
    """Put the outcomes together again from the collected rows of `SCHEMA`.

    Raises
    ------
    LaunchError
        Rows are missing.
    """
    parts: dict[int, dict[int, bytes]] = {}
    for row in rows:
        parts.setdefault(row["rank"], {})[row["part"]] = bytes(row["data"])
    if any(len(parts[row["rank"]]) != row["parts"] for row in rows):
        raise LaunchError(
            "Spark delivered the ranks' results in part only: most often the driver ran out of memory "
            "(spark.driver.memory); return less from the function, or write it to files"
        )
    return [Outcome.from_bytes(b"".join(of[number] for number in sorted(of))) for _, of in sorted(parts.items())]
