"""The environment of a rank: its place among the others, and the variables that Horovod and PyTorch read."""

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from hvdspark_launch.errors import LaunchError

__all__ = [
    "LOOPBACK",
    "Place",
    "check_extra",
    "environment_restored",
    "horovod_variables",
    "interface_of",
    "places",
    "torch_variables",
]

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Place:
    """Where a rank stands, in Horovod's words.

    Attributes
    ----------
    rank, size : int
        Among all ranks.
    local_rank, local_size : int
        Among the ranks of its host.
    cross_rank, cross_size : int
        Among the ranks that have the same `local_rank` on their hosts.
    host : int
        Number of its host, in the order in which hosts first appear.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int
    host: int


def places(hosts: Sequence[Hashable]) -> list[Place]:
    """Place every rank, given what tells its host from others.

    Parameters
    ----------
    hosts : sequence
        One entry a rank; ranks with equal entries share a host.

    Returns
    -------
    list of Place
        In rank order.
    """
    numbers = {host: number for number, host in enumerate(dict.fromkeys(hosts))}
    of_host: dict[Hashable, list[int]] = {host: [] for host in numbers}
    for rank, host in enumerate(hosts):
        of_host[host].append(rank)
    across: dict[int, list[int]] = {}
    for ranks in of_host.values():
        for local_rank, rank in enumerate(ranks):
            across.setdefault(local_rank, []).append(rank)
    result = []
    for rank, host in enumerate(hosts):
        local_rank = of_host[host].index(rank)
        cross = across[local_rank]
        result.append(
            Place(rank, len(hosts), local_rank, len(of_host[host]), cross.index(rank), len(cross), numbers[host])
        )
    return result


def horovod_variables(
    place: Place, *, rendezvous: tuple[str, int] | None, interface: str | None, timeout_s: int
) -> dict[str, str]:
    """Return what Horovod's Gloo controller reads from a rank's environment.

    Parameters
    ----------
    place : Place
        The rank's place.
    rendezvous : (str, int), optional
        IPv4 address and port of the rendezvous server; None where one rank is alone.
    interface : str, optional
        Name of the network interface that Gloo talks over; None where one rank is alone.
    timeout_s : int
        How long Gloo waits for another rank to connect, or to answer on the wire.
    """
    variables = {
        "HOROVOD_RANK": str(place.rank),
        "HOROVOD_SIZE": str(place.size),
        "HOROVOD_LOCAL_RANK": str(place.local_rank),
        "HOROVOD_LOCAL_SIZE": str(place.local_size),
        "HOROVOD_CROSS_RANK": str(place.cross_rank),
        "HOROVOD_CROSS_SIZE": str(place.cross_size),
        # Horovod makes a key of the store and a part of a URL of it: equal on a host, different between hosts.
        "HOROVOD_HOSTNAME": f"host-{place.host}",
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(timeout_s),
    }
    if rendezvous is not None:
        variables["HOROVOD_GLOO_RENDEZVOUS_ADDR"] = rendezvous[0]
        variables["HOROVOD_GLOO_RENDEZVOUS_PORT"] = str(rendezvous[1])
    if interface is not None:
        variables["HOROVOD_GLOO_IFACE"] = interface
        variables["NCCL_SOCKET_IFNAME"] = interface
    return variables


def torch_variables(place: Place, *, store: tuple[str, int], interface: str | None) -> dict[str, str]:
    """Return what ``torch.distributed`` reads from a rank's environment, as torchrun sets it.

    Parameters
    ----------
    place : Place
        The rank's place.
    store : (str, int)
        IPv4 address and reserved port on which rank 0 will listen.
    interface : str, optional
        Name of the network interface that Gloo talks over; None: that of the host's own name.
    """
    variables = {
        "RANK": str(place.rank),
        "WORLD_SIZE": str(place.size),
        "LOCAL_RANK": str(place.local_rank),
        "LOCAL_WORLD_SIZE": str(place.local_size),
        "MASTER_ADDR": store[0],
        "MASTER_PORT": str(store[1]),
        "TORCHELASTIC_USE_AGENT_STORE": "False",  # True where torchrun started the caller: no agent listens there
    }
    if interface is not None:
        variables["GLOO_SOCKET_IFNAME"] = interface
    return variables


# What a launcher sets itself; a user's own value would silently win or lose.
_RESERVED = {
    *horovod_variables(Place(0, 1, 0, 1, 0, 1, 0), rendezvous=(LOOPBACK, 0), interface="lo", timeout_s=1),
    *torch_variables(Place(0, 1, 0, 1, 0, 1, 0), store=(LOOPBACK, 0), interface="lo"),
    "HVDSPARK_GPU_ADDRESS",
}


def check_extra(extra: Mapping[str, str] | None) -> dict[str, str]:
    """Check the variables that a user gives to all ranks.

    Raises
    ------
    ValueError
        One of them is set by the launcher itself, or is not text.
    """
    extra = dict(extra or {})
    if taken := sorted(_RESERVED & extra.keys()):
        raise ValueError(f"env must not set {', '.join(taken)}: the launcher sets them for each rank")
    if wrong := sorted(str(name) for name, value in extra.items() if not isinstance(value, str)):
        raise ValueError(f"values of env must be text; these are not: {', '.join(wrong)}")
    return extra


@contextmanager
def environment_restored(variables: Mapping[str, str]) -> Iterator[None]:
    """Set variables of this process, drop old ones of a launcher, and put everything back at the end.

    Also what the code inside changes is put back: Spark reuses its Python workers, and the next task must not see it.
    """
    before = dict(os.environ)
    for name in before:
        if name in _RESERVED:
            del os.environ[name]
    os.environ.update(variables)
    try:
        yield
    finally:
        for name in [name for name in os.environ if name not in before]:
            del os.environ[name]
        for name, value in before.items():
            if os.environ.get(name) != value:
                os.environ[name] = value


def interface_of(address: str) -> str:
    """Name the network interface of this host that has an IPv4 address.

    Raises
    ------
    LaunchError
        No interface has it.
    """
    import psutil

    of_address = {entry.address: name for name, entries in psutil.net_if_addrs().items() for entry in entries}
    if address not in of_address:
        raise LaunchError(
            f"no network interface of this host has the address {address}; "
            f"it has {', '.join(sorted(of_address))}. Set SPARK_LOCAL_IP on this host to the address others reach it by"
        )
    return str(of_address[address])
