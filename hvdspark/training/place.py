"""Where each rank computes: on which device, with how many threads. Decided on what all ranks say of themselves."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from hvdspark.collectives import Collective
from hvdspark.errors import ConfigurationError

__all__ = ["Sight", "choose_devices", "occupied", "position_of", "share_of_threads", "take_place", "visible_gpus"]

_LOG = logging.getLogger(__name__)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sight:
    """What a rank sees around it.

    Parameters
    ----------
    host : str
        Name of its host.
    machine : str
        What tells the machine from others, also where containers of one have other host names.
    gpus : tuple of str
        The GPUs that torch sees, in torch's order: each by what no other card has.
    cores : tuple of int
        The cores that the process may use.
    address : str, optional
        The GPU that the launcher names for this rank.
    visible : str, optional
        CUDA_VISIBLE_DEVICES.
    """

    host: str
    machine: str
    gpus: tuple[str, ...] = ()
    cores: tuple[int, ...] = (0,)
    address: str | None = None
    visible: str | None = None


def take_place(wanted: str, world: Collective) -> tuple[torch.device, int]:
    """Choose this rank's device and its number of threads, together with all ranks.

    Parameters
    ----------
    wanted : str
        "auto", "cpu", "cuda" or "cuda:0"; equal on all ranks.
    world : Collective
        The ranks; all of them call this.

    Raises
    ------
    ConfigurationError
        On every rank: one of them cannot have what is wanted, or two would use the same GPU.
    """
    mine = np.frombuffer(json.dumps(dataclasses.asdict(_look(wanted, world.host))).encode(), np.uint8)
    sights = [_read(bytes(message)) for message in world.allgather(mine)]
    device = choose_devices(wanted, sights)[world.rank]
    address = sights[world.rank].address
    if device.type == "cpu" and wanted == "auto" and address is not None:
        _LOG.warning(
            "Spark gave GPU %s to rank %d on %s, but torch %s sees none there: training goes on on the CPU. Install a "
            "CUDA build of torch and the driver on the workers, or ask Spark for no GPUs",
            *(address, world.rank, world.host, torch.__version__),
        )
    return device, share_of_threads(sights, world.rank, os.environ.get("OMP_NUM_THREADS"))


@contextmanager
def occupied(device: torch.device, num_threads: int) -> Iterator[None]:
    """Make a device and a number of threads torch's own; put both back, since Spark uses its workers again."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        if device.type == "cuda":
            with torch.cuda.device(device):  # what the user's code calls "cuda" is this rank's
                yield
        else:
            yield
    finally:
        torch.set_num_threads(before)


# ---- devices ---------------------------------------------------------------------------------------------------


def choose_devices(wanted: str, sights: Sequence[Sight]) -> list[torch.device]:
    """Choose every rank's device.

    A GPU is the one that the launcher named for the rank. Where none is named, ranks that see the same GPUs in the same
    order share them out in order of rank: all of a host see all of them, or each only its own, through
    CUDA_VISIBLE_DEVICES.

    Parameters
    ----------
    wanted : str
        "auto", "cpu", "cuda" or "cuda:0".
    sights : sequence of Sight
        Of all ranks, in rank order.

    Raises
    ------
    ConfigurationError
        Naming ranks, hosts and devices.
    """
    if wanted == "cpu":
        return [torch.device("cpu")] * len(sights)
    blind = [rank for rank, sight in enumerate(sights) if not sight.gpus]
    if blind and (wanted != "auto" or len(blind) < len(sights)):
        raise ConfigurationError(_no_gpu(wanted, sights, blind[0]))
    if blind:
        return [torch.device("cpu")] * len(sights)
    indices = [_index(wanted, sights, rank) for rank in range(len(sights))]
    owners: dict[str, int] = {}
    for rank, (sight, index) in enumerate(zip(sights, indices, strict=True)):
        other = owners.setdefault(sight.gpus[index], rank)
        if other != rank:
            raise ConfigurationError(
                f"{_name(sights, other)} and {_name(sights, rank)} would use the same GPU: cuda:{indices[other]} and "
                f"cuda:{index} are {sight.gpus[index]}{_visible(sight)}. One process per GPU: lower num_workers or "
                f"workers_per_node, let Spark give each task a GPU of its own, or train with device='cpu'"
                + (f"; device={wanted!r} names the same GPU for every rank of a host" if ":" in wanted else "")
            )
    return [torch.device("cuda", index) for index in indices]


def _index(wanted: str, sights: Sequence[Sight], rank: int) -> int:
    sight = sights[rank]
    if wanted not in ("auto", "cuda"):
        index: int | None = int(wanted.partition(":")[2])
        origin = f"device={wanted!r}"
    elif sight.address is not None:
        index = position_of(sight.address, sight.gpus, sight.visible)
        origin = f"Spark gave it GPU {sight.address}"
    else:
        index = sum(other.gpus == sight.gpus for other in sights[:rank])
        origin = f"{index} ranks before it take the GPUs that it sees"
    if index is None or index >= len(sight.gpus):
        raise ConfigurationError(
            f"{_name(sights, rank)} has no GPU: {origin}, but torch sees {len(sight.gpus)} there "
            f"({', '.join(sight.gpus)}){_visible(sight)}. One process per GPU: lower num_workers or workers_per_node, "
            "or have the discovery script and CUDA_VISIBLE_DEVICES name the GPUs of the host alike"
        )
    return index


def position_of(address: str, gpus: Sequence[str], visible: str | None) -> int | None:
    """Find the GPU that Spark's address means among those that torch sees, with CUDA_VISIBLE_DEVICES; None: it is not.

    A number counts in what CUDA_VISIBLE_DEVICES shows, as for Spark's own TorchDistributor; one that is too large for
    that is the card's number on the host, as nvidia-smi counts, and is looked for in CUDA_VISIBLE_DEVICES.
    """
    if address.isdecimal() and int(address) < len(gpus):
        return int(address)
    entries = [entry.strip() for entry in (visible or "").split(",")]
    if address in entries:
        return entries.index(address)
    return next((i for i, gpu in enumerate(gpus) if gpu.startswith(address) and not address.isdecimal()), None)


def _no_gpu(wanted: str, sights: Sequence[Sight], rank: int) -> str:
    sight = sights[rank]
    given = f", although Spark gave it GPU {sight.address}" if sight.address is not None else ""
    seeing = next((other for other, each in enumerate(sights) if each.gpus), None)
    others = f", while {_name(sights, seeing)} sees {len(sights[seeing].gpus)}" if seeing is not None else ""
    return (
        f"device={wanted!r}, but torch sees no GPU on {_name(sights, rank)}{given}{others}{_visible(sight)}: install a "
        "CUDA build of torch and the driver there, run ranks only where there are GPUs, or train with device='cpu'"
    )


def _name(sights: Sequence[Sight], rank: int) -> str:
    return f"rank {rank} on {sights[rank].host}"


def _visible(sight: Sight) -> str:
    return f" (CUDA_VISIBLE_DEVICES={sight.visible})" if sight.visible is not None else ""


# ---- threads ---------------------------------------------------------------------------------------------------


def share_of_threads(sights: Sequence[Sight], rank: int, own: str | None) -> int:
    """Return how many threads a rank may use, at least 1.

    Parameters
    ----------
    sights : sequence of Sight
        Of all ranks.
    rank : int
        Which one.
    own : str, optional
        OMP_NUM_THREADS, which counts where it is set: by the user, or by a launcher to the share that it found.
        Else each core that the rank may use counts as one part for each rank of the machine that may use it:
        mpirun can bind ranks to cores of their own.
    """
    first = (own or "").partition(",")[0].strip()  # OpenMP takes a list, one number a level of nesting
    if first.isdecimal() and int(first) > 0:
        return int(first)
    mine = sights[rank]
    neighbours = [set(sight.cores) for sight in sights if sight.machine == mine.machine]
    share = sum(1 / sum(core in cores for cores in neighbours) for core in mine.cores)
    return max(1, int(share + 1e-9))


# ---- what a rank sees ------------------------------------------------------------------------------------------


def _look(wanted: str, host: str) -> Sight:
    return Sight(
        host=host,
        machine=_BOOT_ID.read_text().strip() if _BOOT_ID.exists() else host,
        # A process that looks at GPUs holds memory there, which a rank on the CPU has no use for.
        gpus=visible_gpus() if wanted != "cpu" else (),
        cores=tuple(sorted(os.sched_getaffinity(0))),
        address=os.environ.get("HVDSPARK_GPU_ADDRESS"),
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )


def visible_gpus() -> tuple[str, ...]:
    """Name the GPUs that torch sees, as CUDA_VISIBLE_DEVICES would."""
    if not torch.cuda.is_available():
        return ()
    entries = [entry.strip() for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")]
    names = []
    for index in range(torch.cuda.device_count()):
        entry = entries[index] if index < len(entries) else ""
        # Parts of one card have the card's own id.
        is_part = entry.startswith("MIG-")
        names.append(entry if is_part else f"GPU-{torch.cuda.get_device_properties(index).uuid}")
    return tuple(names)


def _read(message: bytes) -> Sight:
    values = json.loads(message)
    return Sight(**{**values, "gpus": tuple(values["gpus"]), "cores": tuple(values["cores"])})
