"""Small multiples of a threshold: what a code stands for where a sign alone would lose too much.

A multiple is a whole number from 1 to 8. Eight of them share three bytes, three bits each (the multiple less one), the
first in the lowest bits; bits that are left over are zero.
"""

__all__: list[str] = []
