"""Sixteen codes of their gaps in a handful of vector instructions: a running sum is a chain that LLVM leaves scalar."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["LANES", "put_codes"]

LANES = 16
"""Codes of a row."""

_BITS = ir.IntType(32)
_ROW = ir.VectorType(_BITS, LANES)


def _row_of(context: Any, builder: Any, kind: Any, array: Any, place: Any) -> Any:
    """Return the address of the row that begins at element `place` of a contiguous array."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [place]), _ROW.as_pointer())


def _shuffle(builder: Any, row: Any, lanes: list[int]) -> Any:
    """Return these lanes of a row; lane 16 is zero."""
    return builder.shuffle_vector(row, ir.Constant(_ROW, [0] * LANES), ir.Constant(_ROW, lanes))


def _put_codes(_context: Any, codes: Any, _place: Any, gaps: Any, signs: Any, _start: Any, _last: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def row(k: int, place: int) -> Any:
            return _row_of(context, builder, signature.args[k], arguments[k], arguments[place])

        total = builder.load(row(2, 4), align=4)
        for step in (1, 2, 4, 8):
            moved = _shuffle(builder, total, [LANES] * step + list(range(LANES - step)))
            total = builder.add(total, moved)
        last = builder.insert_element(ir.Constant(_ROW, ir.Undefined), arguments[5], _BITS(0))
        total = builder.add(total, _shuffle(builder, last, [0] * LANES))
        sign = builder.load(row(3, 4), align=4)
        builder.store(builder.sub(builder.xor(total, sign), sign), row(0, 1), align=4)
        return builder.extract_element(total, _BITS(LANES - 1))

    return types.uint32(codes, types.int64, gaps, signs, types.int64, types.uint32), generate


put_codes: Any = intrinsic(_put_codes)
"""Put sixteen codes at ``codes[place:]``, made of gaps (plus one) and signs (0 or -1) from `start` on; return the last
magnitude, of which 32 bits are kept.

For compiled code; the arrays are contiguous, of 32 bits; the caller looks to the bounds.
"""
