"""The codes of a byte in a few vector instructions: LLVM does not find them, as tables could overlap the codes."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["LANES", "put_row"]

LANES = 8
"""Entries of a row: as many as a vector register of any recent CPU holds."""

_ROW = ir.VectorType(ir.IntType(32), LANES)


def _row_of(context: Any, builder: Any, kind: Any, array: Any, place: Any) -> Any:
    """Return the address of the row that begins at element `place` of a contiguous array."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [place]), _ROW.as_pointer())


def _spread(builder: Any, number: Any) -> Any:
    """Return a row of an int32."""
    undefined = ir.Constant(_ROW, ir.Undefined)
    one = builder.insert_element(undefined, number, ir.IntType(32)(0))
    return builder.shuffle_vector(one, undefined, ir.Constant(_ROW, [0] * LANES))


def _put_row(_context: Any, codes: Any, _count: Any, places: Any, _start: Any, _first: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target = _row_of(context, builder, signature.args[0], arguments[0], arguments[1])
        row = builder.load(_row_of(context, builder, signature.args[2], arguments[2], arguments[3]), align=4)
        sign = builder.ashr(row, ir.Constant(_ROW, [31] * LANES))
        first = builder.sub(builder.xor(_spread(builder, arguments[4]), sign), sign)
        builder.store(builder.add(first, row), target, align=4)
        return context.get_dummy_value()

    return types.none(codes, types.int64, places, types.int64, types.int32), generate


put_row: Any = intrinsic(_put_row)
"""Put eight codes at ``codes[count:]``: ``places[start : start + 8]``, each `first` further from zero.

For compiled code; both arrays are contiguous int32; the caller looks to the bounds.
"""
