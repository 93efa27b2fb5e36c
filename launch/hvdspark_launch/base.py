"""What every launcher keeps to."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

__all__ = ["KeptPartitions", "Launcher", "check_callable", "check_num_proc", "refuse_rows"]


@dataclass(frozen=True)
class KeptPartitions:
    """Rows for ranks that stay in the partitions that they have.

    Parameters
    ----------
    frame : DataFrame
        It must have as many partitions as there are ranks.
    """

    frame: Any


class Launcher(ABC):
    """Runs one function on several ranks at the same time.

    Laws, held by `tests/contracts/launcher.py` on every launcher:

    1. Results come back in rank order, one a rank, whatever order the ranks ended in.
    2. Each rank finds the environment of Horovod and of PyTorch set, so `hvd.init()` and
       `torch.distributed.init_process_group()` join the ranks of this run and no others.
    3. The first exception that is not the consequence of another reaches the caller as `RankFailed`, with rank, host
       and traceback; its `__cause__` is the rank's own exception where that can be carried. No rank is left waiting
       for one that failed, and no rank outlives the run, however it ended.
    4. A run leaves nothing behind: the environment of the process that a rank ran in, and Horovod's state in it, are
       as before. The same launcher can run again at once.
    5. What cannot be done is refused before any rank runs `fn`; by `check` already, where the number of ranks tells.
    """

    takes_rows: ClassVar[bool] = False
    """Whether ranks run inside Spark tasks, so that `run` can give them `rows`."""

    @abstractmethod
    def check(self, num_proc: int) -> None:
        """Refuse at once what `run` would refuse for this number of ranks: for callers with long work before it.

        Raises
        ------
        TooFewSlots, StartTimeout, LaunchError
            As `run` does.
        """

    @abstractmethod
    def run(
        self,
        fn: Callable[..., Any],
        num_proc: int,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        rows: Any = None,
    ) -> list[Any]:
        """Run `fn(*args, **kwargs)` on `num_proc` ranks and wait for all of them.

        Parameters
        ----------
        fn : callable
            What each rank runs. It may be a closure, a lambda, or defined in the caller's own script.
        num_proc : int
            Number of ranks, at least 1.
        args, kwargs
            The same for every rank. Each rank has its own copy, unless it runs in the caller's process.
        rows : DataFrame or KeptPartitions, optional
            Only where ranks run inside Spark tasks (`BarrierLauncher`): each rank gets an iterator over its share of
            the rows, as `pyarrow.RecordBatch`, before `args`. Elsewhere it is refused.

        Returns
        -------
        list
            What `fn` returned on rank 0, 1, ... `num_proc - 1`.

        Raises
        ------
        RankFailed
            A rank raised or died.
        TooFewSlots, StartTimeout, EnvironmentMismatch
            The ranks cannot run at once, did not start in time, or run in another environment than the driver.
        LaunchError
            What this launcher needs is not there.
        """


def check_callable(fn: Callable[..., Any]) -> None:
    """Refuse what is no function (TypeError)."""
    if not callable(fn):
        raise TypeError(f"fn must be a function, not {type(fn).__name__}: {fn!r}")


def check_num_proc(num_proc: int) -> None:
    """Refuse what is no number of ranks.

    Raises
    ------
    TypeError, ValueError
        `num_proc` is not a whole number, or below 1.
    """
    if isinstance(num_proc, bool) or not isinstance(num_proc, int):
        raise TypeError(f"num_proc must be an int, not {type(num_proc).__name__}: {num_proc!r}")
    if num_proc < 1:
        raise ValueError(f"num_proc must be at least 1, not {num_proc}")


def refuse_rows(launcher: Launcher, rows: Any) -> None:
    """Refuse `rows` in the name of a launcher whose ranks do not run inside Spark tasks.

    Raises
    ------
    ValueError
        `rows` is not None.
    """
    if rows is not None:
        raise ValueError(
            f"rows= cannot act on {type(launcher).__name__}: its ranks do not run inside Spark tasks; "
            "use BarrierLauncher(spark), or write the rows to files that the ranks read"
        )
