"""What the launcher's environment variables tell about the ranks; nothing here sets any."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Self

from hvdspark.errors import ConfigurationError

__all__ = ["Launch"]


@dataclass(frozen=True, slots=True)
class Launch:
    """How this process was started.

    Parameters
    ----------
    kind : str
        "gloo": by Horovod's Gloo launchers or hvdspark's own; "mpi": by mpirun or srun; "none": by neither.
    size : int or None
        How many ranks the launcher started; None if it does not tell.
    """

    kind: Literal["gloo", "mpi", "none"]
    size: int | None

    @classmethod
    def detect(cls, environment: Mapping[str, str] | None = None) -> Self:
        """Read the environment (by default this process's).

        Raises
        ------
        ConfigurationError
            A variable is no number, or srun started several tasks without MPI support.
        """
        env = os.environ if environment is None else environment
        if "HOROVOD_RANK" in env and "HOROVOD_SIZE" in env:
            return cls("gloo", _number(env, "HOROVOD_SIZE"))
        for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
            if name in env:
                return cls("mpi", _number(env, name))
        step_size = _number(env, "SLURM_STEP_NUM_TASKS")
        if "PMIX_RANK" in env:
            return cls("mpi", step_size)
        if step_size is not None and step_size > 1:
            raise ConfigurationError(
                f"srun started {step_size} tasks that know nothing of each other, so each would train alone: start "
                'them with srun --mpi=pmix, or with mpirun inside the allocation; or ask for "solo" if that is meant'
            )
        return cls("none", 1)

    def require_launcher(self, library: str) -> None:
        """Check that some launcher started this process.

        Without one, MPI starts as a world of one: some builds then end the process, and under a launcher that we do
        not know every rank would train alone.

        Raises
        ------
        ConfigurationError
            No launcher left its variables.
        """
        if self.kind == "none":
            raise ConfigurationError(
                f"no launcher's variables are in the environment, so {library} would start as one rank alone: start "
                'the program with horovodrun or mpirun; use "auto" or "solo" for one rank; or, if your launcher sets '
                f"none of the variables we know, start {library} yourself before you open the collective"
            )

    def require_size(self, seen: int, library: str) -> None:
        """Check that a library sees as many ranks as were started.

        Raises
        ------
        ConfigurationError
            It does not: most often it was built for, or loaded, another MPI than the launcher's.
        """
        if self.kind != "none" and self.size is not None and self.size != seen:
            raise ConfigurationError(
                f"the launcher started {self.size} ranks, but {library} sees {seen}: it belongs to another MPI than "
                "the launcher, or was built without the launcher's transport. Use the mpirun of the MPI library that "
                "it loads (MPI4PY_LIBMPI names mpi4py's; horovodrun --check-build shows Horovod's)"
            )


def _number(env: Mapping[str, str], name: str) -> int | None:
    text = env.get(name)
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        raise ConfigurationError(f"the environment variable {name} must be a number of ranks, it is {text!r}")
    return int(text)
