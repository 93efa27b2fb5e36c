"""The codes of a byte in a few vector instructions: LLVM does not find them, as tables could overlap the codes."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hvdspark_kernels.intrinsics import address_of, same, spread

__all__ = ["LANES", "put_row"]

LANES = 8
"""Entries of a row: as many as a vector register of any recent CPU holds."""

_ROW = ir.VectorType(ir.IntType(32), LANES)


def _put_row(_context: Any, codes: Any, _count: Any, places: Any, _start: Any, _first: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target = address_of(context, builder, signature.args[0], arguments[0], arguments[1], _ROW)
        row = builder.load(address_of(context, builder, signature.args[2], arguments[2], arguments[3], _ROW), align=4)
        sign = builder.ashr(row, same(_ROW, 31))
        first = builder.sub(builder.xor(spread(builder, _ROW, arguments[4]), sign), sign)
        builder.store(builder.add(first, row), target, align=4)
        return context.get_dummy_value()

    return types.none(codes, types.int64, places, types.int64, types.int32), generate


put_row: Any = intrinsic(_put_row)
"""Put eight codes at ``codes[count:]``: ``places[start : start + 8]``, each `first` further from zero.

For compiled code; both arrays are contiguous int32; the caller looks to the bounds.
"""
