"""Numba's CUDA simulator, whose threads are Python's: without its race, and without its waiting."""

import sys
import threading

import numpy as np
from numba import types
from numba.cuda.simulator.kernelapi import FakeCUDAShared
from numba.np import numpy_support

_ALLOCATING = threading.Lock()


def prepare():
    """Prepare this process for simulated kernels.

    The simulator looks for a block's shared array and makes it where there is none, without a lock: two threads of the
    block may each make one. And its main thread polls: it holds the interpreter for the whole of each switch interval.
    """
    FakeCUDAShared.array = _shared_array
    sys.setswitchinterval(1e-4)  # s


def _shared_array(self, shape, dtype, alignment=None):
    """Return the one array of this block that the calling line asks for, as the simulator tells them apart."""
    assert shape != 0, "memory whose size the launch says is not simulated here"
    assert alignment is None
    frame = sys._getframe(1)
    line = frame.f_code.co_filename, frame.f_lineno
    with _ALLOCATING:
        if line not in self._allocations:
            plain = numpy_support.as_dtype(dtype) if isinstance(dtype, types.Type) else dtype
            self._allocations[line] = np.empty(shape, plain)
        return self._allocations[line]
