"""The process of a rank that `LocalLauncher` started: `python -m hvdspark_launch.local_rank ORDERS`."""

import ctypes
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

from hvdspark_launch.closure import load_call
from hvdspark_launch.outcome import capture

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def main(orders: dict[str, Any]) -> None:
    """Run the call of the orders and leave its outcome in a file.

    Parameters
    ----------
    orders : dict
        `rank`, `host`, `parent` (process id); `call`, `started`, `ended`: files in the launcher's private folder.
    """
    end_with_parent(orders["parent"])
    Path(orders["started"]).touch()

    def call() -> Any:
        # Loading it imports what it names, which can fail as the function itself can.
        return load_call(Path(orders["call"]).read_bytes())()

    outcome = capture(call, orders["rank"], orders["host"])
    part = Path(orders["ended"] + ".part")
    part.write_bytes(outcome.to_bytes())
    part.rename(orders["ended"])


def end_with_parent(parent: int) -> None:
    """Have this process killed as soon as its parent ends, even if that was killed itself."""
    if sys.platform == "linux":
        if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    else:
        threading.Thread(target=_watch, args=(parent,), daemon=True).start()
    if os.getppid() != parent:  # it ended before the line above
        os._exit(1)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
