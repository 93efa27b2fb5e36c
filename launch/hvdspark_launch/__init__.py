"""hvdspark_launch: a callable in, results in rank order out."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hvdspark_launch.barrier import BarrierLauncher
    from hvdspark_launch.base import KeptPartitions, Launcher
    from hvdspark_launch.errors import (
        EnvironmentMismatch,
        LaunchError,
        PeerFailed,
        RankFailed,
        StartTimeout,
        TooFewSlots,
    )
    from hvdspark_launch.horovod_spark import HorovodSparkLauncher
    from hvdspark_launch.inline import InlineLauncher
    from hvdspark_launch.local import LocalLauncher

__all__ = [
    "BarrierLauncher",
    "EnvironmentMismatch",
    "HorovodSparkLauncher",
    "InlineLauncher",
    "KeptPartitions",
    "LaunchError",
    "Launcher",
    "LocalLauncher",
    "PeerFailed",
    "RankFailed",
    "StartTimeout",
    "TooFewSlots",
]

_MODULES = {
    "BarrierLauncher": "barrier",
    "HorovodSparkLauncher": "horovod_spark",
    "InlineLauncher": "inline",
    "KeptPartitions": "base",
    "Launcher": "base",
    "LocalLauncher": "local",
}


def __getattr__(name: str) -> object:
    """Load a public name when it is first asked for (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_MODULES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
