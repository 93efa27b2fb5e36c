"""A symmetric bitmap: every element as -1, 0 or +1.

Five elements share a byte, as digits of base 3 (0 for nothing, 1 for +1, 2 for -1; the first element is the lowest
digit): 1.6 bits an element, where two bits each would be a quarter more. 243 of the 256 values are used.
"""

__all__: list[str] = []
