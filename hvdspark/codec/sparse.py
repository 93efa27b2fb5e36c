"""The sparse format: a list of signed one-based indices, four bytes each. The only codes of Strom (2015)."""

# ruff: noqa: ARG002  # what one format needs of the common signature, another does not

import numpy as np
from numpy.typing import NDArray

from hvdspark.codec.format import Format, Plan, aligned

__all__ = ["SparseFormat"]


class SparseFormat(Format):
    """``[count] int32``, little-endian: the codes as they are."""

    identity = 1
    name = "sparse"

    def plan(self, codes: NDArray[np.int32], n: int) -> Plan:
        """Take four bytes a code."""
        return Plan(4 * codes.size)

    def write(
        self,
        codes: NDArray[np.int32],
        n: int,
        plan: Plan,
        payload: NDArray[np.uint8],
        num_threads: int | None = None,
    ) -> None:
        """Copy the codes."""
        payload.view("<i4")[:] = codes

    def could_hold(self, plan: Plan, n: int, count: int) -> bool:
        """Compare with four bytes a code."""
        return plan == Plan(4 * count)

    def read(
        self,
        payload: NDArray[np.uint8],
        n: int,
        plan: Plan,
        codes: NDArray[np.int32],
        num_threads: int | None = None,
    ) -> int:
        """Copy the codes; find the first that is zero, beyond `n`, repeated or out of order."""
        from hvdspark_kernels.threshold.codes import first_bad_code

        if not codes.size:
            return 0
        codes[:] = aligned(payload, np.int32)
        place = first_bad_code(codes, n)
        return codes.size if place < 0 else place
