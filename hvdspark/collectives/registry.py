"""Collectives by name, and the choice among them from the launcher's environment."""

import importlib.util
import os
from typing import Protocol

from hvdspark.collectives.base import Collective
from hvdspark.collectives.environment import TORCH_VARIABLES, Launch
from hvdspark.collectives.solo import SoloCollective
from hvdspark.collectives.threads import inside_run_ranks, open_here
from hvdspark.collectives.torchdist import TorchCollective
from hvdspark.collectives.torchdist import is_running as torch_is_running
from hvdspark.errors import ConfigurationError

__all__ = ["Opener", "open_collective", "register"]


class Opener(Protocol):
    """What `register` takes: makes this rank's end of a collective, on all ranks at once."""

    def __call__(self, *, timeout_s: float | None = None) -> Collective:
        """Open a collective whose operations wait `timeout_s` seconds (None: no limit) for the other ranks."""


def open_collective(name: str = "auto", *, timeout_s: float | None = None) -> Collective:
    """Open the collective that joins this process with the other ranks.

    Use it as a context manager: it is closed on success and aborted on an exception.

    Parameters
    ----------
    name : str
        "horovod", "mpi", "solo", "threads" (inside `run_ranks` only), "torch", a registered name, or "auto": inside
        `run_ranks` its threads; under Horovod's Gloo launchers "horovod", under hvdspark's "torch" where there is no
        Horovod; under mpirun or ``srun --mpi=pmix`` "mpi" if
        mpi4py is installed, else "horovod"; under torchrun, or where torch.distributed is initialised, "torch"; started
        by none of them "solo".
    timeout_s : float, optional
        Seconds that an operation waits for the other ranks before it raises `RankLost`; None: no limit of ours.

    Returns
    -------
    Collective

    Raises
    ------
    ConfigurationError
        The name is unknown, its package is missing, or it cannot work under this launcher.
    """
    chosen = _fitting() if name == "auto" else name
    opener = _openers.get(chosen)
    if opener is None:
        raise ConfigurationError(f"there is no collective {name!r}; the known ones are {', '.join(_known())}")
    return opener(timeout_s=timeout_s)


def register(name: str, opener: Opener) -> None:
    """Make a collective of another package known to `open_collective`.

    Parameters
    ----------
    name : str
        A new name.
    opener : callable
        Called as ``opener(timeout_s=...)``; returns a `Collective`, which must keep that class's laws.

    Raises
    ------
    ConfigurationError
        The name is taken by another opener.
    """
    if name == "auto" or _openers.setdefault(name, opener) is not opener:
        raise ConfigurationError(f"a collective named {name!r} exists already; taken are {', '.join(_known())}")


def _fitting() -> str:
    if inside_run_ranks():
        return "threads"
    launch = Launch.detect()
    if launch.kind == "mpi":
        return "mpi" if importlib.util.find_spec("mpi4py") else "horovod"
    if launch.kind == "torch" or (launch.kind == "none" and torch_is_running()):
        return "torch"
    if launch.kind == "gloo":  # hvdspark's launchers tell PyTorch too
        has_horovod = importlib.util.find_spec("horovod") is not None
        return "horovod" if has_horovod or any(name not in os.environ for name in TORCH_VARIABLES) else "torch"
    return "solo"


def _known() -> list[str]:
    return sorted(["auto", *_openers])


def _open_horovod(*, timeout_s: float | None = None) -> Collective:
    from hvdspark.collectives.hvd import HorovodCollective

    return HorovodCollective(timeout_s=timeout_s)


def _open_mpi(*, timeout_s: float | None = None) -> Collective:
    from hvdspark.collectives.mpi import MpiCollective

    return MpiCollective(timeout_s=timeout_s)


_openers: dict[str, Opener] = {
    "horovod": _open_horovod,
    "mpi": _open_mpi,
    "solo": SoloCollective,
    "threads": open_here,
    "torch": TorchCollective,
}
