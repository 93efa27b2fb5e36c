"""The Rice format: the gaps between codes, in little more bits than their entropy asks for.

Rice and Plaunt, "Adaptive variable-length coding for efficient compression of spacecraft television data", 1971. If
every element is sent with the same probability, gaps are distributed geometrically, for which such codes are nearly
ideal: within 1 % at densities of 1e-2 and below.
"""

# ruff: noqa: ARG002  # what one format needs of the common signature, another does not

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark.codec.format import Format, Plan, aligned
from hvdspark_kernels.rice.scalar import MAX_PARAMETER

__all__ = ["RiceFormat"]


@functools.cache
def _cpu() -> Any:
    """Load the kernels, and with them Numba, when they are first used; an import in each call would cost as much."""
    from hvdspark_kernels.rice import cpu

    return cpu


class RiceFormat(Format):
    """Gaps in chunks of up to 4,096 codes, which are written and read in parallel (`hvdspark_kernels.rice.cpu`)."""

    identity = 3
    name = "rice"

    def plan(self, codes: NDArray[np.int32], n: int) -> Plan:
        """Find the parameter that gives the smallest payload."""
        parameter, payload_bytes = _cpu().best_size(codes)
        return Plan(payload_bytes, parameter)

    def write(
        self,
        codes: NDArray[np.int32],
        n: int,
        plan: Plan,
        payload: NDArray[np.uint8],
        num_threads: int | None = None,
    ) -> None:
        """Write chunks and their table."""
        _cpu().write(codes, plan.parameter, payload, num_threads)

    def could_hold(self, plan: Plan, n: int, count: int) -> bool:
        """Compare with the shortest codes that there are."""
        return (
            plan.parameter <= MAX_PARAMETER
            and plan.payload_bytes % 8 == 0
            and count <= _cpu().most_codes(plan.payload_bytes, plan.parameter)
        )

    def read(
        self,
        payload: NDArray[np.uint8],
        n: int,
        plan: Plan,
        codes: NDArray[np.int32],
        num_threads: int | None = None,
    ) -> int:
        """Read chunks; find the first code that is no canonical one."""
        good: int = _cpu().read(aligned(payload, np.uint64).view(np.uint8), plan.parameter, n, codes, num_threads)
        return good
