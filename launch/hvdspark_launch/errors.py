"""What a launch can end in; drawn as a tree in `hvdspark.errors`, which re-exports it."""

__all__ = ["EnvironmentMismatch", "LaunchError", "PeerFailed", "RankFailed", "StartTimeout", "TooFewSlots"]


class LaunchError(RuntimeError):
    """Ranks could not be started, or did not end well."""


class TooFewSlots(LaunchError):
    """The cluster cannot run that many ranks at once.

    Parameters
    ----------
    num_proc : int
        Ranks asked for.
    num_slots : int
        Tasks that can run at the same time.
    advice : str
        What to do about it.
    """

    def __init__(self, num_proc: int, num_slots: int, advice: str) -> None:
        super().__init__(f"{num_proc} ranks were asked for, but only {num_slots} tasks can run at once; {advice}")
        self.num_proc = num_proc
        self.num_slots = num_slots
        self._advice = advice

    def __reduce__(self) -> tuple[type["TooFewSlots"], tuple[int, int, str]]:
        return type(self), (self.num_proc, self.num_slots, self._advice)


class StartTimeout(LaunchError):
    """The ranks did not all start in time."""


class EnvironmentMismatch(LaunchError):
    """Workers run another Python or other package versions than the driver."""


class RankFailed(LaunchError):
    """A rank raised or died. `__cause__` is the rank's own exception where it can be carried.

    Parameters
    ----------
    rank : int
        The rank that failed first.
    host : str
        Where it ran.
    summary : str
        The last line of its traceback, or how its process ended.
    traceback : str
        Its whole traceback, as text; empty if the process died without one.
    """

    def __init__(self, rank: int, host: str, summary: str, traceback: str = "") -> None:
        text = f"rank {rank} on {host} failed: {summary}"
        super().__init__(f"{text}\n\n{traceback.rstrip()}" if traceback else text)
        self.rank = rank
        self.host = host
        self.summary = summary
        self.traceback = traceback

    def __reduce__(self) -> tuple[type["RankFailed"], tuple[int, str, str, str]]:
        return type(self), (self.rank, self.host, self.summary, self.traceback)


class PeerFailed(Exception):
    """Marks an exception that a rank raises because another rank failed: never the first cause of a failure."""
