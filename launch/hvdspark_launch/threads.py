"""How many threads each rank of a host may use: the host's cores shared out, unless the user says otherwise."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["FRESH_PROCESS", "REUSED_PROCESS", "Threads", "torch_threads"]

#: What the libraries of a rank read when they are loaded. OpenBLAS goes by OMP_NUM_THREADS too.
FRESH_PROCESS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
#: In a Spark worker that is used again: Numba raises where its variable has changed since its threads were started.
REUSED_PROCESS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True)
class Threads:
    """What the driver knows of the threads that a rank may use.

    Attributes
    ----------
    own : str, optional
        The user's own OMP_NUM_THREADS, which counts before all else. The variable of a Spark worker is not that: Spark
        sets it to spark.task.cpus, 1 where nothing is said.
    task_cpus : int, optional
        spark.task.cpus where it is set: the share of a host that a cluster gives to a task.
    """

    own: str | None = None
    task_cpus: int | None = None

    def share(self, local_size: int) -> int:
        """Return the threads of each of `local_size` ranks of this host, at least 1."""
        own = (self.own or "").partition(",")[0].strip()  # OpenMP takes a list, one number a level of nesting
        if own.isdecimal() and int(own) > 0:
            return int(own)
        if self.task_cpus:
            return self.task_cpus
        return max(1, len(os.sched_getaffinity(0)) // local_size)

    def variables(self, local_size: int, names: tuple[str, ...], given: Mapping[str, str]) -> dict[str, str]:
        """Return the environment variables `names` of a rank; what is `given` stays, but for OMP_NUM_THREADS."""
        share = str(self.share(local_size))
        others = {name: given.get(name) or share for name in names if name != "OMP_NUM_THREADS"}
        return {"OMP_NUM_THREADS": self.own or share, **others}


@contextmanager
def torch_threads(num_threads: int) -> Iterator[None]:
    """Tell a torch that is loaded already, and so reads no variable any more; put its setting back at the end."""
    torch = sys.modules.get("torch")
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
