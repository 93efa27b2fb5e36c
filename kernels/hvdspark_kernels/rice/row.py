"""A block of codes of its gaps in a handful of vector instructions: LLVM leaves a running sum scalar."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from hvdspark_kernels.intrinsics import address_of, same, spread
from hvdspark_kernels.rice.scalar import ESCAPE, ROW

__all__ = ["put_codes"]

_LANES = 16
_RARE_BITS = 25  # 64 gaps below that, and a magnitude of 31 bits, sum up in 32
_BITS = ir.IntType(32)
_VECTOR = ir.VectorType(_BITS, _LANES)


def _shuffle(builder: Any, row: Any, lanes: list[int]) -> Any:
    """Return these lanes of a row; lane 16 is zero."""
    return builder.shuffle_vector(row, same(_VECTOR, 0), ir.Constant(_VECTOR, lanes))


def _running_sum(builder: Any, row: Any) -> Any:
    for step in (1, 2, 4, 8):
        row = builder.add(row, _shuffle(builder, row, [_LANES] * step + list(range(_LANES - step))))
    return row


def _any_bit(builder: Any, row: Any) -> Any:
    """Return the bits that are set in any lane."""
    name = f"llvm.vector.reduce.or.v{_LANES}i32"
    function = builder.module.globals.get(name) or ir.Function(builder.module, ir.FunctionType(_BITS, [_VECTOR]), name)
    return builder.call(function, [row])


def _put_codes(
    _context: Any, codes: Any, _place: Any, unary: Any, rests: Any, _first: Any, _parameter: Any, _last: Any
) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def address(k: int, place: Any, start: int) -> Any:
            place = builder.add(place, ir.IntType(64)(start))
            return address_of(context, builder, signature.args[k], arguments[k], place, _VECTOR)

        def row(number: int) -> Any:
            return same(_VECTOR, number)

        width = spread(builder, _VECTOR, arguments[5])
        mask = builder.sub(builder.shl(row(1), width), row(1))
        last = spread(builder, _VECTOR, arguments[6])  # stays a row from here on: the chain from row to row is shorter
        rare = row(0)
        for start in range(0, ROW, _LANES):
            zeros = builder.load(address(2, arguments[4], start), align=4)
            rest = builder.load(address(3, arguments[4], start), align=4)
            gap = builder.or_(builder.shl(zeros, width), builder.and_(rest, mask))
            raw = builder.zext(builder.icmp_unsigned(">=", zeros, row(ESCAPE)), _VECTOR)
            rare = builder.or_(rare, builder.or_(raw, builder.lshr(gap, row(_RARE_BITS))))
            sign = builder.sub(row(0), builder.and_(builder.lshr(rest, width), row(1)))
            total = _running_sum(builder, builder.add(gap, row(1)))
            code = builder.xor(builder.add(total, last), sign)
            builder.store(builder.sub(code, sign), address(0, arguments[1], start), align=4)
            last = builder.add(last, _shuffle(builder, total, [_LANES - 1] * _LANES))
        pair = (builder.extract_element(last, _BITS(0)), _any_bit(builder, rare))
        return context.make_tuple(builder, signature.return_type, pair)

    arguments = (codes, types.int64, unary, rests, types.int64, types.uint32, types.uint32)
    return types.UniTuple(types.uint32, 2)(*arguments), generate


put_codes: Any = intrinsic(_put_codes)
"""Put 64 codes at ``codes[place:]``, behind a magnitude `last`, made of what was noted of them from `first` on: their
unary parts and the bits behind those, of a parameter up to 27. Return the magnitude reached, and zero if all is well.

Else a code is raw, or its gap so large (25 bits) that sums may not hold in 32 bits: then what was put means nothing.
For compiled code; the arrays are contiguous, of 32 bits; the caller looks to the bounds.
"""
