"""One rank, in the caller's own process: for debugging, and for runs that need no second rank."""

import os
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

from hvdspark_launch.base import Launcher, check_callable, check_num_proc, refuse_rows
from hvdspark_launch.environment import (
    LOOPBACK,
    environment_restored,
    horovod_variables,
    interface_of,
    places,
    torch_variables,
)
from hvdspark_launch.errors import RankFailed, TooFewSlots
from hvdspark_launch.outcome import describe, shut_horovod_down, shut_torch_down, torch_runs
from hvdspark_launch.ports import ReservedPort

__all__ = ["InlineLauncher"]

_TIMEOUT_S = 30  # never waited for: a single rank meets nobody


@final
class InlineLauncher(Launcher):
    """Runs the function in this process, as the only rank.

    A debugger stops inside the function, and what it returns is handed over as it is, not as a copy.
    """

    def check(self, num_proc: int) -> None:
        """Refuse more than one rank; see `Launcher.check`."""
        check_num_proc(num_proc)
        if num_proc != 1:
            raise TooFewSlots(num_proc, 1, "InlineLauncher runs in this process only: take LocalLauncher()")

    def run(
        self,
        fn: Callable[..., Any],
        num_proc: int,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        rows: Any = None,
    ) -> list[Any]:
        """Run `fn` here; see `Launcher.run`. `num_proc` must be 1."""
        check_callable(fn)
        refuse_rows(self, rows)
        self.check(num_proc)
        place = places(["here"])[0]
        variables = horovod_variables(place, rendezvous=None, interface=None, timeout_s=_TIMEOUT_S)
        was_running, torch_was_running = _horovod_runs(), torch_runs()
        with ReservedPort(LOOPBACK) as store, environment_restored(variables):
            os.environ.update(torch_variables(place, store=(LOOPBACK, store.port), interface=interface_of(LOOPBACK)))
            try:
                return [fn(*args, **dict(kwargs or {}))]
            except (Exception, SystemExit) as error:
                # KeyboardInterrupt is not the rank's: the user stopped the caller.
                summary, text = describe(error)
                raise RankFailed(0, socket.gethostname(), summary, text) from error
            finally:
                if not was_running:
                    shut_horovod_down()
                if not torch_was_running:
                    shut_torch_down()


def _horovod_runs() -> bool:
    horovod = sys.modules.get("horovod.torch")
    return horovod is not None and bool(horovod.is_initialized())
