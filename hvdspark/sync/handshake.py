"""Before the first step, ranks compare what they are about to do together, and refuse together."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hvdspark.collectives import Collective
from hvdspark.errors import RankMismatch

__all__ = ["agree_on_run_id", "broadcast_tensors_", "compare_facts", "compare_fingerprints", "gather_numbers"]


def compare_facts(collective: Collective, facts: dict[str, Any]) -> None:
    """Make sure that all ranks state the same facts.

    Parameters
    ----------
    collective : Collective
        The ranks; all of them call this.
    facts : dict
        JSON-able values by name.

    Raises
    ------
    RankMismatch
        On every rank, if they differ; the message is a table of what differs.
    """
    mine = np.frombuffer(json.dumps(facts, sort_keys=True, default=str).encode(), np.uint8)
    stated = [json.loads(bytes(part)) for part in collective.allgather(mine)]
    names = sorted({name for each in stated for name in each})
    differing = [name for name in names if len({json.dumps(each.get(name)) for each in stated}) > 1]
    if differing:
        rows = [
            f"  {name}: " + ", ".join(f"rank {r}: {each.get(name)}" for r, each in enumerate(stated))
            for name in differing
        ]
        raise RankMismatch("ranks disagree before step 0; make these equal on all ranks:\n" + "\n".join(rows))


def gather_numbers(collective: Collective, numbers: NDArray[Any]) -> list[NDArray[Any]]:
    """Give every rank the few numbers that each rank has, in rank order: ``[k]`` of one dtype."""
    return [part.view(numbers.dtype) for part in collective.allgather(numbers.view(np.uint8))]


def compare_fingerprints(collective: Collective, fingerprint: int, step: int) -> None:
    """Make sure that all ranks have the same weights.

    Parameters
    ----------
    collective : Collective
        The ranks; all of them call this.
    fingerprint : int
        32-bit checksum of this rank's weights.
    step : int
        For the error.

    Raises
    ------
    RankMismatch
        On all ranks, if they differ; the message lists the checksums.
    """
    found = [int(part[0]) for part in gather_numbers(collective, np.array([fingerprint], np.uint32))]
    if len(set(found)) > 1:
        listed = ", ".join(f"rank {rank}: {value:08x}" for rank, value in enumerate(found))
        raise RankMismatch(
            f"the weights differ between ranks after step {step} ({listed}). Only step() may change them; "
            'with encode="gradients" all ranks also need the same torch build and kind of CPU or GPU'
        )


def agree_on_run_id(collective: Collective) -> int:
    """Draw a random 63-bit number on rank 0 and return it on every rank."""
    drawn = np.array([secrets.randbits(63)], np.int64)
    collective.broadcast_(drawn)
    return int(drawn[0])


def broadcast_tensors_(collective: Collective, tensors: Sequence[torch.Tensor]) -> None:
    """Overwrite tensors, equal in shapes and dtypes on all ranks, by rank 0's, in place; any dtype, any device."""
    if not tensors:
        return
    parts = [tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in tensors]
    flat = torch.cat(parts)
    collective.broadcast_(flat.numpy())
    start = 0
    for tensor, part in zip(tensors, parts, strict=True):
        part.copy_(flat[start : start + part.numel()])
        start += part.numel()
        tensor.detach().copy_(part.view(tensor.dtype).view(tensor.shape))
