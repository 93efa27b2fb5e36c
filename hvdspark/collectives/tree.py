"""Groups of ranks, and groups of groups: by which way what many have comes together step by step."""

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from hvdspark.errors import ConfigurationError

__all__ = ["by_host", "levels"]


def by_host(hosts: Iterable[NDArray[np.uint8]]) -> list[list[int]]:
    """Return the ranks of each host, in the order of their first ones, of the name of each rank's host."""
    ranks_of: dict[bytes, list[int]] = {}
    for rank, host in enumerate(hosts):
        ranks_of.setdefault(bytes(host), []).append(rank)
    return list(ranks_of.values())


def levels(members: Sequence[int], fan_out: int) -> list[list[list[int]]]:
    """Lay a tree over ranks: neighbours form groups, the groups' first ranks form groups again, up to a single one.

    Parameters
    ----------
    members : sequence of int
        Ranks in rising order.
    fan_out : int
        Most ranks of a group, at least 2.

    Returns
    -------
    list of list of list of int
        The groups of each level, lowest first; the last level has one. Who would be alone in a group is in none there
        and goes on to the next level. Empty where there is a single member.

    Raises
    ------
    ConfigurationError
        Groups of less than two would never come down to a single one.
    """
    if fan_out < 2:
        raise ConfigurationError(f"levels: groups of 2 or more are needed, not of {fan_out!r}")
    found = []
    heads = list(members)
    while len(heads) > 1:
        groups = [heads[start : start + fan_out] for start in range(0, len(heads), fan_out)]
        found.append([group for group in groups if len(group) > 1])
        heads = [group[0] for group in groups]
    return found
