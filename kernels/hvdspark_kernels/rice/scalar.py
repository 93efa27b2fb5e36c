"""The maths of one gap, written once. `cpu.py` compiles it; `reference.py` runs it as it stands."""

__all__ = [
    "CHUNK", "ESCAPE", "MAX_MAGNITUDE", "MAX_PARAMETER", "RAW_BITS", "ROW", "chunk_of", "code_bits", "join", "split",
]  # fmt: skip

CHUNK = 4096
"""The most codes of a chunk."""

ROW = 64
"""Codes of all chunks but the last come in multiples of this: they are written and read that many at a time."""

ESCAPE = 23
"""The unary part of a gap that is written raw."""

RAW_BITS = 31
"""Bits of any gap."""

MAX_MAGNITUDE = (1 << RAW_BITS) - 1
"""The largest magnitude of a code, an int32."""

MAX_PARAMETER = 30
"""Above it a raw gap is shorter."""


def chunk_of(count: int) -> int:
    """Return the codes of each chunk, but for the last, of a list of so many.

    There are as few chunks as can be; all are about as long, so that those of a short list can be read side by side.
    """
    chunks = max(1, -(-count // CHUNK))
    return -(-max(count, 1) // (chunks * ROW)) * ROW


def split(gap: int, parameter: int) -> tuple[int, int, int]:
    """Return what is written of a gap: the number in unary, then so many bits, which are these."""
    quotient = gap >> parameter
    if quotient < ESCAPE:
        return quotient, parameter, gap & ((1 << parameter) - 1)
    return ESCAPE, RAW_BITS, gap


def join(unary: int, low: int, parameter: int) -> int:
    """Return the gap of which `split` made this; -1 if it makes this of no gap."""
    if unary < ESCAPE:
        return (unary << parameter) | low
    return low if unary == ESCAPE and low >> parameter >= ESCAPE else -1


def code_bits(gap: int, parameter: int) -> int:
    """Return the bits of a code: unary part, its end, low bits, sign."""
    quotient = gap >> parameter
    return quotient + parameter + 2 if quotient < ESCAPE else ESCAPE + RAW_BITS + 2
