"""What a run starts from and a checkpoint then overrules: options of optimizer and scheduler; and random numbers."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from hvdspark.errors import ConfigurationError

__all__ = ["check_rules", "describe_rules", "random_state", "restore_random_state", "seed_random"]


def describe_rules(
    optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler | None
) -> dict[str, str]:
    """Return the options of both, as they are before the first step, by name.

    A checkpoint's state overrules them when it is loaded: what the user has changed in between would be ignored.
    """
    found = {}
    for number, group in enumerate(optimizer.param_groups):
        of = "optimizer" if number == 0 else f"optimizer, group {number}"
        found.update({f"{of}: {name}": repr(value) for name, value in group.items() if name != "params"})
    if scheduler is not None:
        found["lr_scheduler"] = type(scheduler).__name__
        found.update({f"lr_scheduler: {name}": repr(value) for name, value in scheduler.state_dict().items()})
    # Functions and objects have their address in their repr: another in every process.
    return {name: value for name, value in found.items() if " at 0x" not in value}


def check_rules(before: Mapping[str, str], now: Mapping[str, str], checkpoint: str) -> None:
    """Compare the options that a checkpoint was taken under with those of now.

    Raises
    ------
    ConfigurationError
        Naming the first that differs.
    """
    for name in sorted({*before, *now}):
        if before.get(name) != now.get(name):
            raise ConfigurationError(
                f"{checkpoint} was taken with {name} = {before.get(name)}, here it is {now.get(name)}: give the "
                "network the same optimizer and lr_scheduler, or train anew with resume=False in another run_directory"
            )


def seed_random(seed: int) -> None:
    """Start torch's generators, NumPy's and Python's, which modules and hooks may draw from."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  that global generator is meant


def random_state(device: torch.device) -> dict[str, Any]:
    """Return where the generators stand that `seed_random` started: of CUDA, that of this device."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
        "numpy": np.random.get_state(),  # noqa: NPY002
        "python": random.getstate(),
    }


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Go on drawing where `random_state` was taken; CUDA's generator starts anew where that was on a CPU."""
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and state["cuda"] is not None:
        torch.cuda.set_rng_state(state["cuda"], device)
    np.random.set_state(state["numpy"])  # noqa: NPY002
    random.setstate(state["python"])
