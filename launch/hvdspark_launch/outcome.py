"""How the function ended on a rank: what it returned or raised, as bytes that travel to the caller."""

import base64
import json
import re
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn, Self

from hvdspark_launch import errors
from hvdspark_launch.errors import LaunchError, PeerFailed, RankFailed

__all__ = [
    "Outcome",
    "RankAborted",
    "capture",
    "describe",
    "find_outcome",
    "how_ended",
    "raise_first",
    "results",
    "shut_horovod_down",
    "shut_torch_down",
    "torch_runs",
]

# A failure that has to leave as the text of an exception carries the exception itself only when it is small.
_MAX_CARRIED_BYTES = 8192
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Outcome:
    """How the function ended on a rank.

    Attributes
    ----------
    rank : int
        The rank.
    host : str
        Its host's name.
    ok : bool
        Whether it returned.
    time : float
        When it ended, in seconds of the host's clock.
    payload : bytes
        The returned value, or the exception where it can be pickled, by cloudpickle. Empty if there is none.
    summary, traceback : str
        What went wrong, in one line and in full.
    consequence : bool
        Whether it failed only because another rank did.
    refusal : str
        The name of the error of `hvdspark_launch.errors` by which the launcher itself, not the function, stopped the
        rank; else empty.
    """

    rank: int
    host: str
    ok: bool
    time: float
    payload: bytes = b""
    summary: str = ""
    traceback: str = ""
    consequence: bool = False
    refusal: str = ""

    def to_bytes(self) -> bytes:
        """Return one JSON line, then the payload."""
        header = asdict(self)
        del header["payload"]
        return json.dumps(header).encode() + b"\n" + self.payload

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote."""
        header, _, payload = data.partition(b"\n")
        return cls(payload=payload, **json.loads(header))

    @classmethod
    def of_refusal(cls, rank: int, host: str, error: LaunchError) -> Self:
        """Return what a rank reports that the launcher itself stopped."""
        return cls(rank, host, ok=False, time=time.time(), summary=str(error), refusal=type(error).__name__)


class RankAborted(Exception):
    """Ends a rank's task with its outcome in the text, where the others would not end by themselves.

    Parameters
    ----------
    outcome : Outcome
        How the rank ended.
    token : str
        The run's secret, drawn by the driver: Spark's texts also hold what stands in a table, and what is found without
        it is never unpickled.
    """

    def __init__(self, outcome: Outcome, token: str) -> None:
        if len(outcome.payload) > _MAX_CARRIED_BYTES:
            outcome = Outcome(**{**asdict(outcome), "payload": b""})
        text = base64.b64encode(outcome.to_bytes()).decode()
        super().__init__(
            f"rank {outcome.rank} on {outcome.host} failed: {outcome.summary}\nhvdspark-outcome:{token}:{text}:end"
        )


def find_outcome(text: str, token: str) -> Outcome | None:
    """Return the first outcome that a `RankAborted` of this run left in a text, None if there is none."""
    found = re.search(rf"hvdspark-outcome:{re.escape(token)}:([A-Za-z0-9+/=]+):end", text)
    return Outcome.from_bytes(base64.b64decode(found.group(1))) if found else None


def capture(call: Callable[[], Any], rank: int, host: str) -> Outcome:
    """Run a function on a rank; return how it ended, never raise.

    Horovod and torch.distributed are shut down in any case, if they run in this process: a rank that failed thereby
    lets go of the others, who get an error instead of waiting, and a process that is used again starts clean.
    """
    try:
        value = call()
    except BaseException as error:  # noqa: BLE001  SystemExit too: whatever stops fn is the rank's outcome
        outcome = _failure(error, rank, host)
    else:
        outcome = _success(value, rank, host)
    finally:
        shut_horovod_down()
        shut_torch_down()
    return outcome


def describe(error: BaseException) -> tuple[str, str]:
    """Return the first line of an exception, and its whole traceback without the frames of this package at its head."""
    trace = error.__traceback__
    while trace is not None and Path(trace.tb_frame.f_code.co_filename).parent == _HERE:
        trace = trace.tb_next
    text = "".join(traceback.format_exception(type(error), error, trace))
    told = traceback.TracebackException(type(error), error, None)
    told.__notes__ = None  # they stand below the message
    # The last part: a SyntaxError first shows its line of code.
    headline = list(told.format_exception_only())[-1].strip() or type(error).__name__
    return headline.splitlines()[0], text


def how_ended(code: int) -> str:
    """Say how a process ended, from its exit code: negative, or beyond 128 from a shell, where a signal killed it."""
    number = -code if code < 0 else code - 128
    known = {entry.value: entry.name for entry in signal.Signals}
    if code < 0 or number in known:
        return f"its process was killed by {known.get(number, f'signal {number}')}"
    return f"its process ended with exit code {code}"


def shut_horovod_down() -> None:
    """Shut Horovod down if it is loaded and initialised in this process."""
    horovod = sys.modules.get("horovod.torch")
    if horovod is not None and horovod.is_initialized():
        horovod.shutdown()


def torch_runs() -> bool:
    """Tell whether torch.distributed is loaded and initialised in this process."""
    distributed = sys.modules.get("torch.distributed")
    return distributed is not None and bool(distributed.is_available()) and bool(distributed.is_initialized())


def shut_torch_down() -> None:
    """Destroy the process groups of torch.distributed, if there are any in this process."""
    if torch_runs():
        sys.modules["torch.distributed"].destroy_process_group()


def _success(value: Any, rank: int, host: str) -> Outcome:
    import cloudpickle

    try:
        payload = cloudpickle.dumps(value)
    except Exception as error:  # noqa: BLE001  pickling runs the value's own code: anything can come of it
        outcome = _failure(error, rank, host)
        summary = f"its result, a {type(value).__name__}, cannot be pickled: {outcome.summary}"
        return Outcome(**{**asdict(outcome), "summary": summary})
    return Outcome(rank, host, ok=True, time=time.time(), payload=payload)


def _failure(error: BaseException, rank: int, host: str) -> Outcome:
    import cloudpickle

    summary, text = describe(error)
    try:
        payload = cloudpickle.dumps(error)
    except Exception:  # noqa: BLE001  an exception may hold a lock or a socket: then its text must do
        payload = b""
    return Outcome(
        rank,
        host,
        ok=False,
        time=time.time(),
        payload=payload,
        summary=summary,
        traceback=text,
        consequence=_is_consequence(error),
    )


def _is_consequence(error: BaseException | None) -> bool:
    exceptions = sys.modules.get("horovod.common.exceptions")
    kinds: tuple[type[BaseException], ...] = (PeerFailed,)
    if exceptions is not None:
        kinds += (exceptions.HorovodInternalError,)
    while error is not None:
        if isinstance(error, kinds):
            return True
        error = error.__cause__
    return False


def results(outcomes: Iterable[Outcome], num_proc: int) -> list[Any]:
    """Return what all ranks returned, in rank order, or raise for the one that failed first.

    Raises
    ------
    RankFailed
        A rank's function raised; or its result cannot be unpickled here.
    LaunchError
        The launcher itself refused to go on (one of its subclasses, as the rank said); or an outcome is missing.
    """
    in_order = sorted(outcomes, key=lambda outcome: outcome.rank)
    failed = [outcome for outcome in in_order if not outcome.ok]
    if failed:
        raise_first(failed)
    if [outcome.rank for outcome in in_order] != list(range(num_proc)):
        raise LaunchError(
            f"{num_proc} ranks were started, but only these said how they ended: {[each.rank for each in in_order]}. "
            "The results of the others were lost on the way, most often because the driver ran out of memory "
            "(spark.driver.memory)"
        )
    return [_value(outcome) for outcome in in_order]


def raise_first(failed: Iterable[Outcome]) -> NoReturn:
    """Raise for the first failure, by time, that is not the consequence of another."""
    first = min(failed, key=lambda outcome: (outcome.consequence, outcome.time))
    if first.refusal:
        raise getattr(errors, first.refusal, LaunchError)(first.summary)
    raise RankFailed(first.rank, first.host, first.summary, first.traceback) from _carried(first)


def _carried(outcome: Outcome) -> BaseException | None:
    if not outcome.payload:
        return None
    import cloudpickle

    try:
        error = cloudpickle.loads(outcome.payload)
    except Exception:  # noqa: BLE001  its class may be unknown here, or its constructor want more: the text must do
        return None
    return error if isinstance(error, BaseException) else None


def _value(outcome: Outcome) -> Any:
    import cloudpickle

    try:
        return cloudpickle.loads(outcome.payload)
    except Exception as error:
        summary = f"its result cannot be unpickled by the caller: {type(error).__name__}: {error}"
        raise RankFailed(outcome.rank, outcome.host, summary) from error
