"""Whether a run may go on from the checkpoints in its directory: they must be its own, in all that counts."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import secrets
from collections.abc import Mapping
from typing import Any

from hvdspark.data import Manifest
from hvdspark.data.plan import ORDER_VERSION
from hvdspark.errors import ConfigurationError
from hvdspark.masters.placement import absolute
from hvdspark.masters.staging import StagedData
from hvdspark.network import Network
from hvdspark.training import CheckpointManifest, find_checkpoints
from hvdspark.training.checkpoint import checkpoints_directory, list_checkpoints

__all__ = [
    "choose_seed",
    "facts_of",
    "facts_of_data",
    "matching",
    "refuse_old_checkpoints",
    "require_checkpoints",
    "weight_options",
]

_LOG = logging.getLogger(__name__)

# What to do about it, where that is something else than giving the same again.
_ADVICE = {
    "num_workers": "each rank keeps back a residual of its own, so there must be as many ranks",
    "network": "give the network that was trained then",
    "train": "the rows or their order are others. Where Spark gives them in another order each time, sort them, or "
    "stage them once in an export_directory",
    "validation": "give the same validation data",
}


def require_checkpoints(run_directory: str | None) -> tuple[CheckpointManifest, ...]:
    """Return the checkpoints of a run that shall go on, the latest first.

    Raises
    ------
    ConfigurationError
        If there are none, or no run directory is named.
    StorageError
        If there are some, all of them damaged.
    """
    if run_directory is None:
        raise ConfigurationError("resume=True needs the run_directory of the run that shall go on")
    found = find_checkpoints(absolute(run_directory))
    if not found:
        unfinished = ", ".join(list_checkpoints(absolute(run_directory), unfinished=True))
        left = f" ({unfinished} was never finished)" if unfinished else ""
        raise ConfigurationError(
            f"resume=True, but there is no checkpoint in {run_directory}{left}: a run leaves some where its "
            "training master has checkpoint=Checkpoint(...). Train anew with resume=False"
        )
    return found


def refuse_old_checkpoints(run_directory: str | None) -> None:
    """Make sure that a new run does not mix its checkpoints with those of another.

    Raises
    ------
    ConfigurationError
        If there are any in its directory.
    """
    if run_directory is not None and list_checkpoints(absolute(run_directory)):
        raise ConfigurationError(
            f"{run_directory} holds checkpoints of an earlier run: go on from them with resume=True, give another "
            f"run_directory, or remove {checkpoints_directory(run_directory)}"
        )


def choose_seed(given: int | None, found: tuple[CheckpointManifest, ...]) -> int:
    """Return the seed of a run: that which was given, that of the run that goes on, or a new one."""
    if given is not None:
        return given
    return int(found[0].facts["rng_seed"]) if found else secrets.randbits(31)


def facts_of(network: Network, num_workers: int, seed: int, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a run must have in common with the one that it goes on from, but for the data: values by name.

    Parameters
    ----------
    network : Network
        Names, shapes, dtypes and order of its parameters and buffers count.
    num_workers, seed : int
        Number of ranks, and what the order of examples is drawn from.
    options : dict
        Those of the master that decide about the weights.
    """
    state = network.module.state_dict()
    facts = {
        **options,
        "num_workers": num_workers,
        "rng_seed": seed,
        # in order: an optimizer knows parameters by number
        "network": [f"{name} {list(value.shape)} {value.dtype}" for name, value in state.items()],
        "version of the order of examples": ORDER_VERSION,
    }
    plain: dict[str, Any] = json.loads(json.dumps(facts))  # as it comes back from a checkpoint: lists for tuples
    return plain


def facts_of_data(data: StagedData) -> dict[str, Any]:
    """Return the same of the data: fingerprints of the rows and the order in which they are stored.

    Of partitions that ranks read themselves, only they can tell: they add it (`compare_resumed`).
    """
    if data.train is None and data.validation is None:
        return {}
    if data.train is None:
        return {"validation": Manifest.read(str(data.validation)).fingerprint}
    return {
        "train": Manifest.read(data.train).fingerprint,
        "validation": Manifest.read(data.validation).fingerprint if data.validation else None,
    }


def matching(
    found: tuple[CheckpointManifest, ...], facts: Mapping[str, Any], epochs: int
) -> tuple[CheckpointManifest, ...]:
    """Return those checkpoints from which this run may go on, by the facts that are given.

    Raises
    ------
    ConfigurationError
        If it is none of them; the message names what differs from the latest, and what to do.
    """
    problems = {each.name: _difference(each, facts, epochs) for each in found}
    mine = tuple(each for each in found if problems[each.name] is None)
    if found and not mine:
        raise ConfigurationError(f"resume=True cannot go on from {found[0].name}: {problems[found[0].name]}")
    for name, problem in problems.items():
        if problem is not None:
            _LOG.warning("the checkpoint %s is passed over: %s", name, problem)
    return mine


def _difference(manifest: CheckpointManifest, facts: Mapping[str, Any], epochs: int) -> str | None:
    """Say in what a checkpoint is not one of this run."""
    for name in sorted(facts, key=lambda name: name not in _ADVICE):
        before, now = manifest.facts.get(name), facts[name]
        if before != now:
            advice = _ADVICE.get(name, "give the same again")
            return f"{_told(name, before, now)}: {advice}; or train anew with resume=False in another run_directory"
    if (manifest.epoch, manifest.step) > (epochs, 0):
        return f"it has more than epochs={epochs} behind it: give as many or more"
    return None


def _told(name: str, before: Any, now: Any) -> str:
    if name == "network" and before is not None:
        pairs = itertools.zip_longest(before, now, fillvalue="not there")
        before, now = next(pair for pair in pairs if pair[0] != pair[1])
    return f"{name} was {before!r}, it is {now!r}"


def weight_options(master: Any, sharing: Any) -> dict[str, Any]:
    """Return the options of a master that decide about the weights, by name."""
    acting = {"batch_size_per_worker", "buffers", "drop_last", "shuffle"}
    names = {field.name for field in dataclasses.fields(sharing)} | acting
    options = {"training_master": type(master).__name__, **master.model_dump(mode="json", include=names)}
    if master.rdd_training_approach == "direct":  # not said of "export": checkpoints of earlier versions do not say it
        options["rdd_training_approach"] = "direct"
    if not options.get("residual_lookahead"):  # for the same reason
        options.pop("residual_lookahead", None)
    return options
