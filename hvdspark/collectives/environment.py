"""What the launcher's environment variables tell about the ranks; nothing here sets any."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, Self

from hvdspark.errors import ConfigurationError

__all__ = ["TORCH_VARIABLES", "Launch"]

# What torchrun, and other launchers for PyTorch, set on every rank.
TORCH_VARIABLES: Final = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_STARTERS: Final = {
    "gloo": ("Horovod's Gloo launcher", "horovod"),
    "mpi": ("mpirun or srun", "mpi"),
    "torch": ("torchrun, or what else set RANK and WORLD_SIZE,", "torch"),
}


@dataclass(frozen=True, slots=True)
class Launch:
    """How this process was started.

    Parameters
    ----------
    kind : str
        "gloo": by Horovod's Gloo launchers or hvdspark's own; "mpi": by mpirun or srun; "torch": by torchrun, or by
        another launcher that sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT; "none": by none of them.
    size : int or None
        How many ranks the launcher started; None if it does not tell.
    """

    kind: Literal["gloo", "mpi", "torch", "none"]
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
        for_torch = all(name in env for name in TORCH_VARIABLES)
        if for_torch and "TORCHELASTIC_RUN_ID" in env:  # mpirun or srun started torchrun, which started this process
            return cls("torch", _number(env, "WORLD_SIZE"))
        for name in ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"):
            if name in env:
                return cls("mpi", _number(env, name))
        step_size = _number(env, "SLURM_STEP_NUM_TASKS")
        if "PMIX_RANK" in env:
            return cls("mpi", step_size)
        if for_torch:
            return cls("torch", _number(env, "WORLD_SIZE"))
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

    def refuse_alone(self, name: str, library: str, *kinds: str) -> None:
        """Check that none of some kinds of launcher started this process, under which each rank would be alone.

        Parameters
        ----------
        name : str
            The collective that is being opened.
        library : str
            What it is made of.
        kinds : str
            Kinds of launcher that tell this library nothing.

        Raises
        ------
        ConfigurationError
            One of them started several ranks.
        """
        if self.kind in kinds and self.size != 1:
            starter, fitting = _STARTERS[self.kind]
            raise ConfigurationError(
                f'the collective "{name}" cannot work here: {starter} started {self.size} processes, and to {library} '
                f'each of them is alone; use "{fitting}", or another launcher: mpirun for "mpi", horovodrun or mpirun '
                'for "horovod", torchrun for "torch"'
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
