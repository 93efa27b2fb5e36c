"""The bitmap format: every element as -1, 0 or +1, five of them a byte. Its size does not depend on what is sent.

Symmetric, unlike Deeplearning4j's bitmap, whose half step exists for negative elements only.
"""

# ruff: noqa: ARG002  # what one format needs of the common signature, another does not

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hvdspark.codec.format import Format, Plan, aligned

__all__ = ["BitmapFormat"]


@functools.cache
def _cpu() -> Any:
    """Load the kernels, and with them Numba, when they are first used; an import in each call would cost as much."""
    from hvdspark_kernels.ternary import cpu

    return cpu


class BitmapFormat(Format):
    """``[ceil(n / 5)] uint8``: five ternary digits a byte, 1.6 bits an element (`hvdspark_kernels.ternary.cpu`)."""

    identity = 4
    name = "bitmap"

    def plan(self, codes: NDArray[np.int32], n: int) -> Plan:
        """Take a byte for five elements."""
        return Plan(_cpu().size(n))

    def write(
        self,
        codes: NDArray[np.int32],
        n: int,
        plan: Plan,
        payload: NDArray[np.uint8],
        num_threads: int | None = None,
    ) -> None:
        """Write all elements."""
        _cpu().write(codes, n, payload)

    def could_hold(self, plan: Plan, n: int, count: int) -> bool:
        """Compare with a byte for five elements."""
        return plan == Plan(_cpu().size(n)) and count <= n

    def read(
        self,
        payload: NDArray[np.uint8],
        n: int,
        plan: Plan,
        codes: NDArray[np.int32],
        num_threads: int | None = None,
    ) -> int:
        """List the elements that are not zero; they must be as many as ``codes`` has room for."""
        good: int = _cpu().read(aligned(payload, np.uint8), n, codes)
        return good
