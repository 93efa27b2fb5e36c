"""Threshold quantisation with a residual (Strom, Interspeech 2015).

Every element of ``residual + update`` whose magnitude reaches `tau` is sent as a code, one signed integer: ``+(i + 1)``
or ``-(i + 1)`` for element i. A code stands for ``+tau`` or ``-tau``, which leaves the element; the rest stays in the
residual.
"""

__all__: list[str] = []
