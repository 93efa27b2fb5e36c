"""The maths of one byte, written once. `cpu.py` makes tables of it; `reference.py` runs it as it stands."""

__all__ = ["DIGITS", "VALUES", "digit"]

DIGITS = 5
"""Elements of a byte."""

VALUES = 3**DIGITS
"""Values that a byte can have; above them it means nothing."""


def digit(byte: int, place: int) -> int:
    """Return 0, 1 or -1: the element at a place, 0 to 4, of a byte."""
    value = byte // 3**place % 3
    return value if value < 2 else -1
