"""One row of the encode pass in a handful of vector instructions, which LLVM finds for whatever CPU it compiles for.

A loop over 64 elements in Python would need a second one to collect what reaches the threshold: LLVM does not turn
comparisons into the bits of a mask by itself.
"""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hvdspark_kernels.intrinsics import address_of, same, spread
from hvdspark_kernels.jit import BLOCK

__all__ = ["add_row"]

_BITS = ir.IntType(32)
_FLOATS = ir.VectorType(ir.FloatType(), BLOCK)
_INTEGERS = ir.VectorType(_BITS, BLOCK)
_ABSOLUTE = 0x7FFFFFFF  # all but the sign
_INFINITY = 0x7F800000  # NaN has larger bits still


def _reaches(builder: Any, values: Any, limit: Any) -> Any:
    """Return a mask of the elements whose magnitude's bits, as a number, are at least those of `limit`.

    Bits of floats above zero are ordered as the floats are, and NaN is above all.
    """
    magnitudes = builder.and_(builder.bitcast(values, _INTEGERS), same(_INTEGERS, _ABSOLUTE))
    return builder.bitcast(builder.icmp_unsigned(">=", magnitudes, limit), ir.IntType(BLOCK))


def _add_row(_context: Any, residual: Any, first: Any, second: Any, _place: Any, _tau: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def row(k: int) -> Any:
            return address_of(context, builder, signature.args[k], arguments[k], arguments[3], _FLOATS)

        total = builder.load(row(0), align=4)
        if first != types.none:
            update = builder.load(row(1), align=4)
            if second != types.none:
                update = builder.fsub(update, builder.load(row(2), align=4))
            total = builder.fadd(total, update)
        tau = builder.bitcast(arguments[4], _BITS)
        reaching = _reaches(builder, total, spread(builder, _INTEGERS, tau))
        bad = _reaches(builder, total, same(_INTEGERS, _INFINITY))
        if first != types.none:
            with builder.if_then(builder.icmp_unsigned("==", bad, ir.IntType(BLOCK)(0)), likely=True):
                builder.store(total, row(0), align=4)
        return context.make_tuple(builder, signature.return_type, [reaching, bad])

    masks: Any = types.UniTuple(types.uint64, 2)
    return masks(residual, first, second, types.int64, types.float32), generate


add_row: Any = intrinsic(_add_row)
"""Add ``first[place : place + 64]``, less those of `second`, to the residual; for compiled code.

Either may be None: without `second` nothing is subtracted, without both nothing is added and nothing written.

Returns two masks, uint64, bit j for element ``place + j``: whose magnitude reaches `tau`, and which is not finite. The
residual is written only if all are finite. The caller looks to the bounds.
"""
