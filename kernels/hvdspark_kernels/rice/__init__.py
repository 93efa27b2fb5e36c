"""Rice-coded gaps between codes: little more bits than their entropy asks for.

Rice and Plaunt, "Adaptive variable-length coding for efficient compression of spacecraft television data", IEEE
Transactions on Communication Technology, 1971.

A code is a signed one-based index; codes rise in magnitude. Its gap is how many elements lie between it and the one
before. A gap is written as its quotient by ``2**parameter`` in unary (so many zeros and a one), the lowest `parameter`
bits, and a bit for the sign; bits fill 64-bit words from the lowest one up. A quotient of 23 or more is written as 23
zeros and a one, and then all 31 bits of the gap, so that no code takes more than 56 bits.

A list is cut into as few chunks of at most 4,096 codes as can be, about equally long: all but the last have the same
multiple of 64 codes. Each begins at a word. A table in front of the words tells, for every chunk but the first, the
magnitude of the code before it and the word at which it begins (uint32 each): so chunks are written and read side by
side. Unused bits are zero: a list of codes has just one payload for each parameter. All numbers are little-endian.
"""

__all__: list[str] = []
