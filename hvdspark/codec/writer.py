"""The memory of one encoder's messages, and the writing of them."""

import numpy as np
from numpy.typing import NDArray

from hvdspark.codec import multiples
from hvdspark.codec.groups import Groups
from hvdspark.codec.message import DENSE, FORMATS, HEADER_BYTES, Stamp, seal

__all__ = ["Writer"]


class Writer:
    """Writes messages into memory that is taken once: each is valid until the next.

    Parameters
    ----------
    n
        Elements of an update.
    groups
        Groups of them.
    form
        The name of a format of codes; ``"auto"``: for each message the one that takes the fewest bytes; ``"dense"``.
    bits
        Bits of a code for its multiple, or 0.
    num_threads
        The most threads to use; None for a default.
    """

    def __init__(self, n: int, groups: int, form: str, bits: int, num_threads: int | None) -> None:
        self._n = n
        self._formats = list(FORMATS.values()) if form == "auto" else [FORMATS[form]] if form in FORMATS else []
        self._num_threads = num_threads
        # Room for the largest message: Rice codes never take more than 33 bits, and a little for each 4,096 of them.
        # Only what is written becomes memory: a sparse message touches little of it.
        size = HEADER_BYTES + Groups.table_bytes(groups) + 4 * n + n // 4 + 64 + multiples.packed_bytes(n, bits)
        self._buffer: NDArray[np.uint8] = np.empty(size, dtype=np.uint8)

    def write(
        self, codes: NDArray[np.int32], found: NDArray[np.uint8] | None, groups: Groups, stamp: Stamp
    ) -> tuple[str, NDArray[np.uint8]]:
        """Write codes and their multiples, if they have any; return the name of the format and the message."""
        plans = [(form, form.plan(codes, self._n)) for form in self._formats]
        form, plan = min(plans, key=lambda pair: pair[1].payload_bytes)
        table = HEADER_BYTES + Groups.table_bytes(len(groups.counts))
        end = table + plan.payload_bytes
        bits = 0 if found is None else multiples.BITS
        message = self._buffer[: end + multiples.packed_bytes(codes.size, bits)]
        if len(groups.counts) > 1:
            groups.write(message[HEADER_BYTES:table])
        form.write(codes, self._n, plan, message[table:end], self._num_threads)
        if found is not None:
            multiples.write(found, message[end:])
        seal(message, form, plan.parameter, self._n, groups, stamp, bits)
        return form.name, message

    def dense_values(self) -> NDArray[np.float32]:
        """Return where the values of a dense message belong, ``[n] float32``."""
        values: NDArray[np.float32] = self._dense()[HEADER_BYTES:].view("<f4")
        return values

    def seal_dense(self, groups: Groups, stamp: Stamp) -> NDArray[np.uint8]:
        """Finish the dense message whose values have been filled in, and return it."""
        message = self._dense()
        seal(message, DENSE, 0, self._n, groups, stamp)
        return message

    def _dense(self) -> NDArray[np.uint8]:
        return self._buffer[: HEADER_BYTES + DENSE.payload_bytes(self._n)]
