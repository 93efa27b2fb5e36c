"""How every CPU kernel is compiled: the flags, each with its reason; and instructions that Python has no word for."""

import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from llvmlite.binding import get_host_cpu_features, get_host_cpu_name
from numba import types
from numba.extending import intrinsic

from hvdspark_kernels.cache import CarefulCache

__all__ = ["BLOCK", "cache_directory", "jit", "load_word", "prefetch", "trailing_zeros"]

BLOCK = 64
"""Elements of one inner loop. A constant: with a trip count known only at run time LLVM leaves the loop scalar."""


def jit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile `function` for the CPU that runs it, at its first call, and keep the result for the next process."""
    directory = cache_directory()
    settings: Any = numba.config
    before = settings.CACHE_DIR
    try:
        settings.CACHE_DIR = str(directory or "")  # read where a function is made, and by nothing else meanwhile
        compiled: Callable[..., Any] = numba.njit(
            nogil=True,  # ranges of one array run side by side on plain threads (threads.py)
            parallel=False,  # Numba's thread layers: workqueue aborts when two threads enter it, omp dies in a fork
            fastmath=False,  # a code must be the same on every machine: no reordered sums, no fused multiply-add
            error_model="numpy",  # no test for a zero divisor inside the loops
            cache=directory is not None,  # compiling all kernels takes seconds, loading them a tenth of one
        )(function)
    finally:
        settings.CACHE_DIR = before
    if directory is not None:
        compiled._cache = CarefulCache(compiled._cache, directory / "lock")  # type: ignore[attr-defined]
    return compiled


@functools.cache
def cache_directory() -> Path | None:
    """Return where compiled kernels are kept: a folder of this user's, named for the sources; None if there is none.

    Numba looks at the file of a kernel only, and would not see an edit of another one that it calls: hence a folder for
    every state of all sources, for each kind of CPU and version of Numba. ``HVDSPARK_KERNEL_CACHE`` names another place
    than the user's cache directory; an empty value keeps nothing.
    """
    given = os.environ.get("HVDSPARK_KERNEL_CACHE")
    if given == "":
        return None
    sources = sorted(Path(__file__).parent.rglob("*.py"))
    kind = f"{numba.__version__} {get_host_cpu_name()} {sorted(get_host_cpu_features().items())}"
    digest = hashlib.sha256(b"".join([kind.encode(), *(source.read_bytes() for source in sources)])).hexdigest()[:16]
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        directory = (Path(given) if given else home / "hvdspark" / "kernels") / digest
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        # What is loaded from it is run: only a folder that nobody else may write to will do.
        status = directory.stat()
        if status.st_uid != os.getuid() or status.st_mode & 0o022 or not os.access(directory, os.W_OK):
            return None
    except (OSError, RuntimeError):  # the second: a user without a home
        return None
    return directory


def _trailing_zeros(_context: Any, mask: Any) -> Any:
    def generate(context: Any, builder: Any, _signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], context.get_constant(types.boolean, 1))  # 1: never called with zero

    return (types.int64(types.uint64), generate) if mask == types.uint64 else None


trailing_zeros: Any = intrinsic(_trailing_zeros)
"""The number of zero bits below the lowest set bit of a uint64, as int64; for compiled code; the mask is not zero."""


def _load_word(_context: Any, array: Any, _place: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(64).as_pointer())
        return builder.load(address, align=1)

    return types.uint64(array, types.int64), generate


load_word: Any = intrinsic(_load_word)
"""Eight bytes of a uint8 array from a place on, at any address, as uint64; for compiled code, which looks to bounds."""


def _prefetch(_context: Any, array: Any, _place: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        from llvmlite import ir

        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        address = builder.bitcast(builder.gep(data, [arguments[1]]), ir.IntType(8).as_pointer())
        number = ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [address.type, number, number, number])
        hint = builder.module.globals.get("llvm.prefetch.p0i8") or ir.Function(
            builder.module, kind, "llvm.prefetch.p0i8"
        )
        builder.call(hint, [address, number(1), number(3), number(1)])  # to be written, keep it near, data
        return context.get_dummy_value()

    return types.none(array, types.int64), generate


prefetch: Any = intrinsic(_prefetch)
"""Ask for the cache line of ``array[place]`` ahead of its use; any place may be asked for; for compiled code."""
