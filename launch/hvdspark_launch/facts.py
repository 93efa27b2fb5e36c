"""What the ranks tell each other when they meet, and what they refuse on it."""

import importlib.metadata
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Self

from hvdspark_launch.errors import EnvironmentMismatch, LaunchError

__all__ = ["PACKAGES", "Facts", "check_gpus", "check_versions", "versions_of"]

PACKAGES = ("cloudpickle", "horovod", "hvdspark", "numba", "numpy", "pyarrow", "pyspark", "torch")
_MAX_LINES = 20


@dataclass(frozen=True)
class Facts:
    """What one rank says of itself.

    Attributes
    ----------
    rank : int
        The rank.
    host, address : str
        Its host's name, and the IPv4 address by which Spark advertises it.
    port : int
        Where rank 0 serves the rendezvous; 0 on other ranks.
    store_port : int
        Which port rank 0 has reserved for PyTorch's store; 0 on other ranks.
    versions : dict
        Of Python (major.minor) and of packages; None: not installed.
    gpus : list of str
        The addresses of the GPUs that Spark gave to the task.
    visible : str, optional
        CUDA_VISIBLE_DEVICES of the worker, which the addresses count in where it is set.
    """

    rank: int
    host: str
    address: str
    port: int
    store_port: int
    versions: dict[str, str | None]
    gpus: list[str]
    visible: str | None = None

    def to_json(self) -> str:
        """Return the facts as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))

    @property
    def site(self) -> tuple[str, str]:
        """What tells this rank's host from others."""
        return self.host, self.address

    @property
    def gpu(self) -> str | None:
        """The address of the rank's GPU on its host, seen through CUDA_VISIBLE_DEVICES; None without one."""
        if not self.gpus:
            return None
        devices = self.visible.split(",") if self.visible else []
        index = int(self.gpus[0]) if self.gpus[0].isdecimal() else len(devices)
        return devices[index].strip() if index < len(devices) else self.gpus[0]


def versions_of(packages: Iterable[str]) -> dict[str, str | None]:
    """Return the versions of Python (major.minor) and of packages here; None: not installed."""
    found: dict[str, str | None] = {"python": ".".join(platform.python_version_tuple()[:2])}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = None
    return found


def check_versions(driver: Mapping[str, str | None], ranks: Sequence[Facts]) -> None:
    """Refuse ranks that run another environment than the driver, or than each other.

    A package that the driver has not is compared among the ranks (a driver needs no Horovod). The part of a version
    after "+" is not compared: a driver with torch's CPU build may well drive ranks with a CUDA build.

    Parameters
    ----------
    driver : mapping
        What `versions_of` returned there.
    ranks : sequence of Facts
        Of all ranks.

    Raises
    ------
    EnvironmentMismatch
        With a table of what differs.
    """
    lines = []
    for package, wanted in driver.items():
        first = next((facts.versions[package] for facts in ranks if facts.versions[package]), None)
        reference = wanted or first
        origin = "driver" if wanted else "other ranks"
        lines += [
            f"{package:<12}  {origin} {reference or 'none':<12}  rank {facts.rank} on {facts.host}: "
            f"{facts.versions[package] or 'not installed'}"
            for facts in ranks
            if _public(facts.versions[package]) != _public(reference)
        ]
    if lines:
        more = [f"... and {len(lines) - _MAX_LINES} more lines"] if len(lines) > _MAX_LINES else []
        table = "\n  ".join(lines[:_MAX_LINES] + more)
        raise EnvironmentMismatch(
            f"workers run another environment than the driver:\n  {table}\n"
            "Install the driver's versions on the workers, or send them with the job (PYSPARK_PYTHON, spark.archives)"
        )


def _public(version: str | None) -> str | None:
    return version and version.partition("+")[0]


def check_gpus(ranks: Sequence[Facts]) -> None:
    """Refuse GPUs that do not make one process a GPU.

    Raises
    ------
    LaunchError
        A task has several GPUs, only some have one, or two tasks of a host have the same; with a table.
    """
    if not any(facts.gpus for facts in ranks):
        return
    problem = None
    taken = [(facts.site, facts.gpu) for facts in ranks]
    if any(len(facts.gpus) > 1 for facts in ranks):
        problem = "a rank drives one GPU, but Spark gave several to a task; set spark.task.resource.gpu.amount to 1"
    elif not all(facts.gpus for facts in ranks):
        problem = "some ranks have a GPU and some have none; give every executor GPUs, or none"
    elif len(set(taken)) < len(taken):
        problem = (
            "two ranks of a host have the same GPU; executors of one host must be given different GPUs "
            "(the discovery script of each, or its CUDA_VISIBLE_DEVICES, must show only its own)"
        )
    if problem:
        table = "\n  ".join(
            f"rank {facts.rank:<4} {facts.host} ({facts.address})  GPU {', '.join(facts.gpus) or 'none'}"
            + (f"  CUDA_VISIBLE_DEVICES={facts.visible}" if facts.visible else "")
            for facts in ranks
        )
        raise LaunchError(f"{problem}:\n  {table}")
