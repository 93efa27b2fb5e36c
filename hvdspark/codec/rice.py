"""The Rice format: the gaps between codes, in little more bits than their entropy asks for.

Rice and Plaunt, "Adaptive variable-length coding for efficient compression of spacecraft television data", 1971. If
every element is sent with the same probability, gaps are distributed geometrically, for which such codes are nearly
ideal: within 1 % at densities of 1e-2 and below.
"""

import numpy as np
from numpy.typing import NDArray

from hvdspark.codec.format import Format, Plan, aligned

__all__ = ["RiceFormat"]

_MAX_PARAMETER = 30


class RiceFormat(Format):
    """Gaps in chunks of 4,096 codes, which are written and read in parallel (`hvdspark_kernels.rice.cpu`)."""

    identity = 3
    name = "rice"

    def plan(self, codes: NDArray[np.int32], n: int) -> Plan:  # noqa: ARG002  # other formats need n
        """Find the parameter that gives the smallest payload."""
        from hvdspark_kernels.rice import cpu

        parameter, payload_bytes = cpu.best_size(codes)
        return Plan(payload_bytes, parameter)

    def write(self, codes: NDArray[np.int32], n: int, plan: Plan, payload: NDArray[np.uint8]) -> None:  # noqa: ARG002
        """Write chunks and their table."""
        from hvdspark_kernels.rice import cpu

        cpu.write(codes, plan.parameter, payload)

    def could_hold(self, plan: Plan, n: int, count: int) -> bool:  # noqa: ARG002  # other formats need n
        """Compare with the shortest codes that there are."""
        from hvdspark_kernels.rice import cpu

        return (
            plan.parameter <= _MAX_PARAMETER
            and plan.payload_bytes % 8 == 0
            and count <= cpu.most_codes(plan.payload_bytes, plan.parameter)
        )

    def read(self, payload: NDArray[np.uint8], n: int, plan: Plan, codes: NDArray[np.int32]) -> int:
        """Read chunks; find the first code that is no canonical one."""
        from hvdspark_kernels.rice import cpu

        return cpu.read(aligned(payload, np.uint64).view(np.uint8), plan.parameter, n, codes)
