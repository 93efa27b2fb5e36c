"""Messages: 64 bytes of header, then a payload in one of the formats. What comes from the wire is checked here, first.

======  =====  =============  ==========================================================
offset  bytes  field          meaning
======  =====  =============  ==========================================================
0       4      magic          ``HVDS``
4       2      version        1
6       1      format         1 sparse, 2 dense
7       1      flags          0: none are defined
8       8      run_id         the run that the message belongs to
16      8      step           the step of the sender
24      8      n              elements of the update
32      8      count          elements that the message carries
40      8      payload_bytes  bytes behind the header
48      4      rank           the sender
52      4      tau            float32, a bfloat16 number; 0 where the message has no codes and no threshold
56      4      examples       rows behind this update, for a weighted mean
60      4      crc32          of the 60 bytes before and the payload (zlib's polynomial)
======  =====  =============  ==========================================================

Everything is little-endian.
"""

import struct
import zlib
from dataclasses import dataclass, fields
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hvdspark.codec.dense import DenseFormat
from hvdspark.codec.format import Format
from hvdspark.codec.sparse import SparseFormat
from hvdspark.codec.tau import MIN_TAU, is_tau
from hvdspark.errors import ConfigurationError, MessageError

__all__ = ["DENSE", "HEADER_BYTES", "SPARSE", "Expected", "Header", "Message", "Stamp", "check", "read_header", "seal"]

HEADER_BYTES = 64
SPARSE = SparseFormat()
DENSE = DenseFormat()

Message: TypeAlias = "NDArray[np.uint8] | bytes | bytearray | memoryview"

_LAYOUT = struct.Struct("<4sHBBQQQQQIfI")
_CHECKSUM = struct.Struct("<I")
_MAGIC = b"HVDS"
_VERSION = 1
_FORMATS: dict[int, Format] = {made.identity: made for made in (SPARSE, DENSE)}


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
        for field in fields(self):
            bits = 64 if field.name in ("run_id", "step") else 32
            value = getattr(self, field.name)
            if not 0 <= value < 1 << bits:
                raise ConfigurationError(f"Stamp.{field.name} must be in 0..2**{bits} - 1, not {value}")


@dataclass(frozen=True)
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


@dataclass(frozen=True)
class Header:
    """The header of a message, read; the fields are those of the module's table."""

    format: int
    flags: int
    run_id: int
    step: int
    n: int
    count: int
    payload_bytes: int
    rank: int
    tau: float
    examples: int
    crc32: int


def read_header(message: Message) -> Header:
    """Read the header of a message.

    Only its form is checked: use what it says for statistics and sizes; `decode_into` finds out whether it is true.

    Raises
    ------
    MessageError
        If it is too short, or not of this version of this codec.
    """
    return _read(_bytes(message))


def seal(message: NDArray[np.uint8], form: Format, n: int, count: int, tau: float, stamp: Stamp) -> None:
    """Write the header, checksum included, in front of a finished payload: ``message[64:]``."""
    payload = message[HEADER_BYTES:]
    head = _LAYOUT.pack(
        _MAGIC, _VERSION, form.identity, 0,
        stamp.run_id, stamp.step, n, count, payload.size, stamp.rank, tau, stamp.examples,
    )  # fmt: skip
    checksum = zlib.crc32(payload.data, zlib.crc32(head))
    message[:HEADER_BYTES] = np.frombuffer(head + _CHECKSUM.pack(checksum), dtype=np.uint8)


def check(message: Message, n: int, expected: Expected | None = None) -> tuple[Header, Format, NDArray[np.uint8]]:
    """Check everything about a message that can be checked, before anything of it is used.

    The order matters: sizes before contents, so that no number from the wire is trusted before the bytes are there.

    Parameters
    ----------
    message
        The whole message, not one byte more.
    n
        Elements of the update that we hold.
    expected
        What else must hold.

    Returns
    -------
    (header, format, payload)
        The payload is a view of the message.

    Raises
    ------
    MessageError
        If anything is wrong; it says what.
    """
    data = _bytes(message)
    header = _read(data)
    payload = data[HEADER_BYTES:]
    form = _FORMATS.get(header.format)
    if form is None or header.flags:
        raise MessageError(
            f"format {header.format} with flags {header.flags} is not known: do all ranks run one version?"
        )
    if header.payload_bytes != payload.size:
        raise MessageError(f"the header announces {header.payload_bytes} bytes of payload, {payload.size} came")
    problem = (
        _check_counts(header, form, n, expected or Expected())
        or _check_tau(header, form)
        or _check_origin(header, expected or Expected())
        or _check_sum(header, data)
        or form.check(payload, header.n, header.count)
    )
    if problem:
        raise MessageError(f"{problem} (the header names rank {header.rank}, step {header.step})")
    return header, form, payload


def _bytes(message: Message) -> NDArray[np.uint8]:
    data = message if isinstance(message, np.ndarray) else np.frombuffer(message, dtype=np.uint8)
    if data.dtype != np.uint8 or data.ndim != 1 or not data.flags.c_contiguous:
        raise MessageError(f"a message is a contiguous 1-D uint8 array or bytes, not {data.dtype}{list(data.shape)}")
    return data


def _read(data: NDArray[np.uint8]) -> Header:
    if data.size < HEADER_BYTES:
        raise MessageError(f"{data.size} bytes are no message: the header alone has {HEADER_BYTES}")
    magic, version, *rest = _LAYOUT.unpack_from(data.data)
    if magic != _MAGIC or version != _VERSION:
        raise MessageError(
            f"this is no message of this codec (magic {magic!r}, version {version}; {_MAGIC!r}, {_VERSION} needed): "
            f"do all ranks run one version of hvdspark?"
        )
    return Header(*rest, *_CHECKSUM.unpack_from(data.data, _LAYOUT.size))


def _check_counts(header: Header, form: Format, n: int, expected: Expected) -> str | None:
    if header.n != n:
        return f"the message is for {header.n} elements, {n} are held here: do all ranks train the same model?"
    limit = n if expected.max_count is None or not form.coded else min(n, expected.max_count)
    if header.count > limit:
        return f"the message carries {header.count} elements, at most {limit} are allowed"
    size = form.payload_bytes(n, header.count)
    if header.payload_bytes != size:
        return f"{header.count} {form.name} elements of {n} take {size} bytes of payload, not {header.payload_bytes}"
    return None


def _check_tau(header: Header, form: Format) -> str | None:
    undecided = header.tau == 0 and not (form.coded and header.count)
    if undecided or is_tau(header.tau):
        return None
    return f"the threshold {header.tau} is no finite bfloat16 number of at least {MIN_TAU}"


def _check_origin(header: Header, expected: Expected) -> str | None:
    for name in ("run_id", "rank", "step"):
        wanted, found = getattr(expected, name), getattr(header, name)
        if wanted is not None and wanted != found:
            return f"{name} {found} is in the header, {wanted} was expected"
    return None


def _check_sum(header: Header, data: NDArray[np.uint8]) -> str | None:
    checksum = zlib.crc32(data[HEADER_BYTES:].data, zlib.crc32(data[: _LAYOUT.size].data))
    return None if checksum == header.crc32 else "the checksum is wrong: bytes changed on the way"
