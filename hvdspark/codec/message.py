"""Messages: 64 bytes of header, then a payload in one of the formats. What comes from the wire is checked here, first.

======  =====  =============  ============================================================================
offset  bytes  field          meaning
======  =====  =============  ============================================================================
0       4      magic          ``HVDS``
4       2      version        2
6       1      format         1 sparse, 2 dense, 3 Rice, 4 bitmap; plus 16 times the bits of a multiple, 0 or 3
7       1      parameter      of the Rice codes; 0 elsewhere
8       8      run_id         the run that the message belongs to
16      8      step           the step of the sender
24      4      n              elements of the update
28      4      count          elements that the message carries
32      4      groups         of elements, each with a threshold of its own; 1 or more
36      4      threshold      float32, as the algorithm gave it; 0 while undecided
40      8      payload_bytes  bytes behind the header
48      4      rank           the sender
52      4      magnitude      float32, a bfloat16 number: what a code stands for
56      4      examples       rows behind this update, for a weighted mean
60      4      crc32          of the 60 bytes before and the payload (zlib's polynomial)
======  =====  =============  ============================================================================

With more than one group, threshold and magnitude are 0 here, and a table of the groups (groups.py) leads the payload.
With bits for multiples, a code stands for 1 to 8 magnitudes, and the multiples of all codes (multiples.py) end the
payload; readers that know of none refuse such a format. Everything is little-endian.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from hvdspark.codec import multiples
from hvdspark.codec.bitmap import BitmapFormat
from hvdspark.codec.dense import DenseFormat
from hvdspark.codec.format import Format, Plan
from hvdspark.codec.groups import Groups
from hvdspark.codec.rice import RiceFormat
from hvdspark.codec.sparse import SparseFormat
from hvdspark.codec.tau import is_zero
from hvdspark.errors import ConfigurationError, MessageError

__all__ = [
    "DENSE", "FORMATS", "HEADER_BYTES", "Checked", "Expected", "Header", "Message", "Stamp", "check", "read_header",
    "seal",
]  # fmt: skip

HEADER_BYTES = 64
DENSE = DenseFormat()
FORMATS: dict[str, Format] = {made.name: made for made in (SparseFormat(), RiceFormat(), BitmapFormat())}

Message: TypeAlias = "NDArray[np.uint8] | bytes | bytearray | memoryview"

_LAYOUT = struct.Struct("<4sHBBQQIIIfQIfII")
_CHECKSUM = struct.Struct("<I")
_CHECKSUM_AT = _LAYOUT.size - _CHECKSUM.size
_STAMP_BITS = (("run_id", 64), ("rank", 32), ("step", 64), ("examples", 32))
_MAGIC = b"HVDS"
_VERSION = 2
_BYTE = np.dtype(np.uint8)
_FORMAT_BITS = 4  # of the header's byte; the others are the bits of a multiple
_FORMAT_MASK = (1 << _FORMAT_BITS) - 1
_KNOWN: dict[int, Format | DenseFormat] = {
    **{made.identity: made for made in FORMATS.values()},
    DENSE.identity: DENSE,
}


@dataclass(frozen=True)
class Stamp:
    """What the sender says of itself in the header.

    Attributes
    ----------
    run_id
        64 bits that name the run: keeps messages of two runs apart.
    rank
        The sender's rank.
    step
        The sender's step.
    examples
        The number of rows behind the update.
    """

    run_id: int = 0
    rank: int = 0
    step: int = 0
    examples: int = 0

    def __post_init__(self) -> None:
        longest, shorter = max(self.run_id, self.step), max(self.rank, self.examples)
        least = min(self.run_id, self.step, self.rank, self.examples)
        if least >= 0 and longest < 1 << 64 and shorter < 1 << 32:
            return
        for name, bits in _STAMP_BITS:
            value = getattr(self, name)
            if not 0 <= value < 1 << bits:
                raise ConfigurationError(f"Stamp.{name} must be in 0..2**{bits} - 1, not {value}")


@dataclass(slots=True)  # not frozen, as `Header`
class Expected:
    """What a receiver knows of a message before it comes. None: not checked.

    Attributes
    ----------
    run_id, rank, step
        What the header must say: refuses replays, and messages of another run or rank.
    max_count
        The most elements that a message with codes may carry.
    """

    run_id: int | None = None
    rank: int | None = None
    step: int | None = None
    max_count: int | None = None


@dataclass(slots=True)  # not frozen: each step makes one a rank, which would take three times as long
class Header:
    """The header of a message, read; the fields are those of the module's table.

    `multiple_bits` is what the table's format holds beside the format: bits of a code for its multiple; 0: it has none.
    """

    format: int
    parameter: int
    run_id: int
    step: int
    n: int
    count: int
    groups: int
    threshold: float
    payload_bytes: int
    rank: int
    magnitude: float
    examples: int
    crc32: int
    multiple_bits: int = 0

    def error(self, problem: str) -> MessageError:
        """Make the exception for what is wrong with the message."""
        return MessageError(f"{problem} (the header names rank {self.rank}, step {self.step})")


class Checked(NamedTuple):
    """A message whose header, checksum and groups are good; its codes or values have not been looked at.

    Attributes
    ----------
    header, groups
        What the message says of itself.
    form
        How the body is written.
    plan
        Its size, and the format's parameter.
    body
        Codes or values: the payload between the table of groups and the multiples, a view of the message.
    multiples
        The multiples of the codes, packed: a view of the message; empty where codes have none.
    """

    header: Header
    groups: Groups
    form: Format | DenseFormat
    plan: Plan
    body: NDArray[np.uint8]
    multiples: NDArray[np.uint8]


def read_header(message: Message) -> Header:
    """Read the header of a message.

    Only its form is checked: use what it says for statistics and sizes; `decode_into` finds out whether it is true.

    Raises
    ------
    MessageError
        If it is too short, or not of this version of this codec.
    """
    return _read(_bytes(message))


def seal(
    message: NDArray[np.uint8],
    form: Format | DenseFormat,
    parameter: int,
    n: int,
    groups: Groups,
    stamp: Stamp,
    multiple_bits: int = 0,
) -> None:
    """Write the header, checksum included, in front of a finished payload: ``message[64:]``."""
    one = len(groups.counts) == 1
    _LAYOUT.pack_into(
        message.data, 0, _MAGIC, _VERSION, form.identity | multiple_bits << _FORMAT_BITS, parameter, stamp.run_id,
        stamp.step, n, sum(groups.counts), len(groups.counts), groups.thresholds[0] if one else 0.0,
        message.size - HEADER_BYTES, stamp.rank, groups.magnitudes[0] if one else 0.0, stamp.examples, 0,
    )  # fmt: skip
    _CHECKSUM.pack_into(message.data, _CHECKSUM_AT, _checksum(message))


def check(message: Message, n: int, expected: Expected | None = None) -> Checked:
    """Check everything about a message that can be checked before its codes are read.

    The order matters: sizes before contents, so that no number from the wire is trusted before the bytes are there.

    Parameters
    ----------
    message
        The whole message, not one byte more.
    n
        Elements of the update that we hold.
    expected
        What else must hold.

    Raises
    ------
    MessageError
        If anything is wrong; it says what.
    """
    data = _bytes(message)
    header = _read(data)
    form = _KNOWN.get(header.format)
    bits = header.multiple_bits
    if form is None or bits not in (0, multiples.BITS):
        known = f"format {header.format} with multiples of {bits} bits"
        raise MessageError(f"{known} is not known: do all ranks run one version?")
    if header.payload_bytes != data.size - HEADER_BYTES:
        came = data.size - HEADER_BYTES
        raise MessageError(f"the header announces {header.payload_bytes} bytes of payload, {came} came")
    table = HEADER_BYTES + Groups.table_bytes(header.groups)
    end = data.size - (multiples.packed_bytes(header.count, bits) if bits else 0)
    plan = Plan(end - table, header.parameter)
    problem = _check_counts(header, form, plan, n, expected) or _check_origin(header, expected)
    problem = problem or _check_sum(header, data)
    if problem is None:
        groups = _groups(header, form, data[HEADER_BYTES:table])
        checked = Checked(header, groups, form, plan, data[table:end], data[end:])
        problem = _check_multiples(checked) if bits else None
        if problem is None and isinstance(form, DenseFormat):
            problem = _check_dense(checked, n)
        if problem is None:
            return checked
    raise header.error(problem)


def _groups(header: Header, form: Format | DenseFormat, table: NDArray[np.uint8]) -> Groups:
    """Return the groups of codes; those of dense values say nothing."""
    if isinstance(form, DenseFormat):
        return Groups([header.count], [0.0], [0.0])
    try:
        if header.groups > 1:
            return Groups.read(table, header.groups, header.count)
        return Groups.one(header.count, header.threshold, header.magnitude)
    except ValueError as error:
        raise header.error(str(error)) from None


def _bytes(message: Message) -> NDArray[np.uint8]:
    data = message if isinstance(message, np.ndarray) else np.frombuffer(message, dtype=np.uint8)
    if data.dtype != _BYTE or data.ndim != 1 or not data.flags.c_contiguous:
        raise MessageError(f"a message is a contiguous 1-D uint8 array or bytes, not {data.dtype}{list(data.shape)}")
    return data


def _read(data: NDArray[np.uint8]) -> Header:
    if data.size < HEADER_BYTES:
        raise MessageError(f"{data.size} bytes are no message: the header alone has {HEADER_BYTES}")
    magic, version, kind, *fields = _LAYOUT.unpack_from(data.data)
    if magic != _MAGIC or version != _VERSION:
        raise MessageError(
            f"this is no message of this codec (magic {magic!r}, version {version}; {_MAGIC!r}, {_VERSION} needed): "
            f"do all ranks run one version of hvdspark?"
        )
    header = Header(kind & _FORMAT_MASK, *fields)
    header.multiple_bits = kind >> _FORMAT_BITS
    return header


def _checksum(data: NDArray[np.uint8]) -> int:
    """Return what the header has to say: zlib's CRC of all that is in front of it, and behind it."""
    view = data.data
    return zlib.crc32(view[HEADER_BYTES:], zlib.crc32(view[:_CHECKSUM_AT]))


def _check_counts(
    header: Header, form: Format | DenseFormat, plan: Plan, n: int, expected: Expected | None
) -> str | None:
    if header.n != n:
        return f"the message is for {header.n} elements, {n} are held here: do all ranks train the same model?"
    is_dense = isinstance(form, DenseFormat)
    limit = n if is_dense or expected is None or expected.max_count is None else min(n, expected.max_count)
    if header.count > limit:
        return f"the message carries {header.count} elements, at most {limit} are allowed"
    size = plan.payload_bytes
    if header.groups < 1 or size < 0 or (header.groups > 1 and not _has_zeros(header)):
        what = f"{header.groups} groups and multiples of {header.multiple_bits} bits"
        return f"{what} do not fit into {header.payload_bytes} bytes of payload"
    if isinstance(form, DenseFormat):
        fits = header.count == n and size == form.payload_bytes(n)
    else:
        fits = form.could_hold(plan, n, header.count)
    return None if fits else f"{header.count} {form.name} elements of {n} cannot take {size} bytes of payload"


def _has_zeros(header: Header) -> bool:
    """Tell whether threshold and magnitude are zero."""
    return is_zero(header.threshold) and is_zero(header.magnitude)


def _check_multiples(checked: Checked) -> str | None:
    if isinstance(checked.form, DenseFormat):
        return "a dense message has no multiples"
    filled = multiples.is_filled_up(checked.multiples, checked.header.count)
    return None if filled else "the multiples are not filled up with zeros"


def _check_dense(checked: Checked, n: int) -> str | None:
    header = checked.header
    if header.groups != 1 or header.parameter or not _has_zeros(header):
        return f"a dense message of {n} elements has no groups, thresholds or magnitudes"
    return DENSE.check(checked.body)


def _check_origin(header: Header, expected: Expected | None) -> str | None:
    if expected is None:
        return None
    if (header.run_id, header.rank, header.step) == (expected.run_id, expected.rank, expected.step):
        return None  # the rule; what is left is not checked, or wrong
    for name in ("run_id", "rank", "step"):
        wanted, found = getattr(expected, name), getattr(header, name)
        if wanted is not None and wanted != found:
            return f"{name} {found} is in the header, {wanted} was expected"
    return None


def _check_sum(header: Header, data: NDArray[np.uint8]) -> str | None:
    return None if _checksum(data) == header.crc32 else "the checksum is wrong: bytes changed on the way"
