"""LLVM's instructions that Python has no word for, for compiled code; and what is needed to write more of them."""

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

__all__ = ["address_of", "load_word", "prefetch", "same", "spread", "trailing_zeros"]

_BITS = ir.IntType(32)


def address_of(context: Any, builder: Any, kind: Any, array: Any, place: Any, pointee: Any) -> Any:
    """Return the address of what begins at element `place` of a contiguous array of a Numba type, as one of `pointee`.

    With a vector for a `pointee`, that of a row of elements.
    """
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [place]), pointee.as_pointer())


def same(row: Any, number: int) -> Any:
    """Return the constant of a vector type whose lanes all are this number."""
    return ir.Constant(row, [number] * row.count)


def spread(builder: Any, row: Any, number: Any) -> Any:
    """Return a vector of that type whose lanes all are `number`, a value of compiled code."""
    undefined = ir.Constant(row, ir.Undefined)
    one = builder.insert_element(undefined, number, _BITS(0))
    return builder.shuffle_vector(one, undefined, same(ir.VectorType(_BITS, row.count), 0))


def _trailing_zeros(_context: Any, mask: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], context.get_constant(types.boolean, 1))  # 1: never called with zero

    return (types.int64(types.uint64), generate) if mask == types.uint64 else None


trailing_zeros: Any = intrinsic(_trailing_zeros)
"""The number of zero bits below the lowest set bit of a uint64, as int64; the mask is not zero."""


def _load_word(_context: Any, array: Any, _place: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = address_of(context, builder, signature.args[0], arguments[0], arguments[1], ir.IntType(64))
        return builder.load(address, align=1)

    return types.uint64(array, types.int64), generate


load_word: Any = intrinsic(_load_word)
"""Eight bytes of a uint8 array from a place on, at any address, as uint64; the caller looks to the bounds."""


def _prefetch(_context: Any, array: Any, _place: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = address_of(context, builder, signature.args[0], arguments[0], arguments[1], ir.IntType(8))
        kind = ir.FunctionType(ir.VoidType(), [address.type, _BITS, _BITS, _BITS])
        hint = builder.module.globals.get("llvm.prefetch.p0i8") or ir.Function(
            builder.module, kind, "llvm.prefetch.p0i8"
        )
        builder.call(hint, [address, _BITS(1), _BITS(3), _BITS(1)])  # to be written, keep it near, data
        return context.get_dummy_value()

    return types.none(array, types.int64), generate


prefetch: Any = intrinsic(_prefetch)
"""Ask for the cache line of ``array[place]`` ahead of its use; any place may be asked for."""
