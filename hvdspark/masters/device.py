"""Where a network is used: the GPU of a Spark task, one of those that torch sees, or the CPU."""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import logging
import os
import socket
import traceback
from collections.abc import Iterator
from typing import Any

import torch

from hvdspark.errors import ConfigurationError, ModelError
from hvdspark.network import Network
from hvdspark.training.place import position_of, visible_gpus

__all__ = [
    "check_device",
    "copy_on",
    "device_of",
    "forget",
    "inferring",
    "inherited",
    "is_fatal",
    "moved",
    "task_device",
]

_LOG = logging.getLogger(__name__)
_CPU = torch.device("cpu")


def check_device(wanted: str) -> str:
    """Return what names a device, and refuse other text (ValueError)."""
    if wanted not in ("auto", "cpu", "cuda") and not (wanted.startswith("cuda:") and wanted[5:].isdecimal()):
        raise ValueError("'auto', 'cpu', 'cuda' or 'cuda:0' is needed")
    return wanted


def inherited(device: str) -> str:
    """Return what the device of a training master means elsewhere than on its workers: "cpu" or "auto".

    Which GPU they use says nothing of the driver, nor of the cluster on which a trained network is used later.
    """
    return "cpu" if device == "cpu" else "auto"


def task_device(wanted: str) -> torch.device:
    """Choose the device of a task of Spark; outside of one the first GPU, where there is one.

    Several tasks may share a GPU: unlike ranks they do not wait for each other.

    Parameters
    ----------
    wanted
        "auto", "cpu", "cuda" or "cuda:0". Under "auto" and "cuda" it is the GPU that Spark gave the task; where it gave
        none, the process takes one of those that torch sees, by the number of its first partition, and stays there.

    Raises
    ------
    ConfigurationError
        If there is no such GPU here.
    """
    if wanted == "cpu":
        return _CPU
    from pyspark import TaskContext

    task: Any = TaskContext.get()
    given = task.resources().get("gpu") if task is not None else None
    address = given.addresses[0] if given is not None and given.addresses else None
    gpus = visible_gpus()
    if not gpus:
        return _without_gpu(wanted, address)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if wanted not in ("auto", "cuda"):
        index: int | None = int(wanted.partition(":")[2])
    elif address is not None:
        index = position_of(address, gpus, visible)
    else:
        index = _own_turn(task.partitionId() if task is not None else 0) % len(gpus)
    if index is None or index >= len(gpus):
        origin = f"device={wanted!r}" + (f", and Spark gave the task GPU {address}" if address is not None else "")
        shown = f" (CUDA_VISIBLE_DEVICES={visible})" if visible is not None else ""
        raise ConfigurationError(
            f"{origin}, but torch sees {len(gpus)} on {socket.gethostname()} ({', '.join(gpus)}){shown}: have the "
            "discovery script and CUDA_VISIBLE_DEVICES name the GPUs of the host alike, or give device='cpu'"
        )
    return torch.device("cuda", index)


def _without_gpu(wanted: str, address: str | None) -> torch.device:
    given = f", although Spark gave the task GPU {address}" if address is not None else ""
    if wanted != "auto":
        raise ConfigurationError(
            f"device={wanted!r}, but torch sees no GPU on {socket.gethostname()}{given}: install a CUDA build of torch "
            "and the driver there, or give device='cpu'"
        )
    if address is not None:
        _warn_of_blindness(address)
    return _CPU


@functools.cache
def _warn_of_blindness(address: str) -> None:
    _LOG.warning(
        "Spark gave GPU %s to a task on %s, but torch %s sees none there: it goes on on the CPU. Install a CUDA build "
        "of torch and the driver on the workers, or ask Spark for no GPUs",
        *(address, socket.gethostname(), torch.__version__),
    )


_turns: list[int] = []  # of this process: the number of its first partition


def _own_turn(partition: int) -> int:
    """Return the same number for all tasks of a process: on each GPU that it touches it holds memory."""
    if not _turns:
        _turns.append(partition)
    return _turns[0]


def device_of(network: Network) -> torch.device:
    """Return where a network lies, which is where its inputs have to be; without any tensor, the CPU."""
    module = network.module
    first = next(itertools.chain(module.parameters(), module.buffers()), None)
    return _CPU if first is None else first.device


def moved(network: Network, device: torch.device) -> Network:
    """Bring a network, which is the caller's own, to a device.

    Raises
    ------
    ModelError
        If there is no room for it.
    """
    with _room(device, "the network does not fit into its memory"):
        for part in (network.module, network.loss, network.output):  # a loss may hold the weights of classes
            if isinstance(part, torch.nn.Module):
                part.to(device)
    return network


def forget(after: BaseException | None = None) -> None:
    """Give back what torch keeps of a GPU for later, where this process uses one: others may need it sooner.

    Parameters
    ----------
    after
        An error that lives on: its frames, and those of its causes, let go of their variables, which are on the GPU.
    """
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return
    for error in _chain(after):
        traceback.clear_frames(error.__traceback__)
    with contextlib.suppress(torch.AcceleratorError):  # of a GPU that failed for good: what failed first tells more
        torch.cuda.empty_cache()


def is_fatal(error: BaseException) -> bool:
    """Tell whether a GPU failed for good: CUDA answers all that this process asks of it later with the same error."""
    return any(isinstance(each, torch.AcceleratorError) and "out of memory" not in str(each) for each in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def copy_on(network: Network, device: torch.device) -> Network:
    """Return a network that computes on a device: itself where it lies there, else a copy."""
    if device == device_of(network):
        return network
    found = copy.copy(network)
    found.module, found.loss, found.output = copy.deepcopy((network.module, network.loss, network.output))
    return moved(found, device)


@contextlib.contextmanager
def inferring(network: Network) -> Iterator[torch.device]:
    """Compute without gradients where a network lies; yields the device, which is what "cuda" means meanwhile.

    Raises
    ------
    ModelError
        If memory of a GPU runs out. Other errors get a note of what to do where only the CPU can.
    """
    device = device_of(network)
    with torch.inference_mode():
        if device.type == "cpu":
            yield device
            return
        with (
            torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext(),
            _room(device, "its memory ran out: give a smaller batch_size"),
        ):
            yield device


@contextlib.contextmanager
def _room(device: torch.device, problem: str) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{device} on {socket.gethostname()}: {problem}, let fewer tasks run at once there "
            f"(spark.task.resource.gpu.amount, default_evaluation_workers), or give device='cpu'. Torch says: {error}"
        ) from error
    except Exception as error:
        if device.type != "cpu":
            error.add_note(f"This was on {device} of {socket.gethostname()}; device='cpu' computes on the CPU.")
        raise
