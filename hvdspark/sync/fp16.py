"""``exchange="fp16"``: everything is sent, as float16; what rounding takes off is kept and sent later."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hvdspark.collectives import Collective
from hvdspark.errors import ConfigurationError, MessageError, NonFiniteError
from hvdspark.sync.base import Exchange, Vector
from hvdspark.sync.part import Part, check_counts
from hvdspark.sync.phases import Phases
from hvdspark.sync.regions import Regions
from hvdspark.sync.saved import saved_count

__all__ = ["Fp16Exchange"]

_HEAD = struct.Struct("<4sIQi4x")  # mark, examples, step, exponent of the scale
_MARK = b"HV16"
_EXPONENT = 15  # float16 reaches 2**16 not quite
_TOO_LARGE = 2.0**128 * (1 - 2.0**-12)
_MAX_EXPONENT = 126  # so that the scale and its inverse are float32 numbers
_KEYS = {"residual", "sent"}


class Fp16Exchange(Exchange):
    """Sums vectors that travel as float16 in both directions: half the bytes of a dense exchange.

    Each message is scaled by a power of two so that its largest element just fits: small updates do not vanish.
    Summation is in float32, by the owner of each region, in rank order. Rounding errors of a rank stay in its
    residual, those of a sum in its owner's.

    Parameters
    ----------
    collective : Collective
        The ranks.
    n : int
        Length of the vectors.
    phases : Phases
        Where the time is counted.
    """

    sent = None
    device = torch.device("cpu")  # it goes through the memory of the host

    def __init__(self, collective: Collective, n: int, phases: Phases) -> None:
        self._regions = Regions(collective, n, phases)
        self._phases = phases
        self._residual = np.zeros(n, np.float32)
        self._total = np.empty(n, np.float32)
        self._sent = 0

    @property
    def residual(self) -> Vector:  # type: ignore[override]  # it is never None
        """What rounding took off, `[n] float32`."""
        return self._residual

    def add_total(self, vector: Vector, out: Vector, scale: float, *, part: Part) -> None:
        """Add ``scale * sum_r vector_r`` to `out`, but for what rounding keeps back."""
        with self._phases.timed("encode"), np.errstate(invalid="ignore", over="ignore"):  # refused by its place
            np.add(self._residual, vector, out=self._total)
        self._exchange(out, scale, part)

    def add_difference(self, before: Vector, after: Vector, out: Vector, scale: float, *, part: Part) -> None:
        """Do ``out += scale * sum_r (before - after_r)``, but for what rounding keeps back."""
        with self._phases.timed("encode"), np.errstate(invalid="ignore", over="ignore"):
            np.subtract(before, after, out=self._total)
            np.add(self._residual, self._total, out=self._total)
        self._exchange(out, scale, part)

    def _exchange(self, out: Vector, scale: float, part: Part) -> None:
        """Send `_total`, and keep what is left of it; all of it, if that fails and it is finite."""
        total, spans, own = self._total, self._regions.spans, self._regions.own
        messages: list[NDArray[np.uint8]] = []
        summed = np.zeros(own.stop - own.start, np.float32)

        def pack() -> list[NDArray[np.uint8]]:
            with self._phases.timed("encode"):
                _refuse_non_finite(total)
                messages.extend(_pack(total[span], part, self._sent) for span in spans)
            return messages

        def sum_up() -> NDArray[np.uint8]:
            with self._phases.timed("decode"), np.errstate(over="ignore"):  # refused by its place
                for message in received:
                    np.add(summed, _unpack(message, summed.size, self._sent), out=summed)
                check_counts(part, [_HEAD.unpack_from(message.data)[1] for message in received])
            with self._phases.timed("encode"):
                _refuse_non_finite(summed)
                return _pack(summed, part, self._sent)

        try:
            received = self._regions.swap(pack, self._sent)
            joined = self._regions.gather(sum_up, self._sent)
            with self._phases.timed("decode"):
                pairs = zip(joined, spans, strict=True)
                sums = [_unpack(message, span.stop - span.start, self._sent) for message, span in pairs]
        except BaseException:
            if messages:  # it was finite
                self._residual, self._total = total, self._residual
            raise
        with self._phases.timed("apply"):
            total[own] += summed - sums[self._regions.rank]
            for span, message, each in zip(spans, messages, sums, strict=True):
                total[span] -= _unpack(message, span.stop - span.start, self._sent)
                out[span] += np.float32(scale) * each
        self._residual, self._total = total, self._residual
        self._sent += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the residual and the number of exchanges."""
        return {"residual": torch.from_numpy(self._residual.copy()), "sent": self._sent}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        if set(state) != _KEYS or np.shape(state["residual"]) != self._residual.shape:
            raise ConfigurationError(
                f'the state of exchange="fp16" is a residual of {self._residual.size} elements and a count: is this '
                "of another exchange, or of another model?"
            )
        sent, residual = saved_count(state), np.asarray(state["residual"])
        if not np.isfinite(residual).all():
            raise ConfigurationError("the state is damaged: its residual is not finite")
        self._residual[:] = residual
        self._sent = sent

    def measures(self) -> dict[str, float]:
        """Return a density of one: everything is sent."""
        return {"density": 1.0, "threshold": 0.0, "clipped_mass": 0.0}


def _pack(values: Vector, part: Part, step: int) -> NDArray[np.uint8]:
    """Write finite values as float16, scaled so that the largest just fits."""
    numbers = torch.from_numpy(values)
    least, largest = torch.aminmax(numbers)
    reach = max(-least.item(), largest.item())
    if reach >= _TOO_LARGE:
        raise NonFiniteError(f"{reach} is so large that float16 rounds it to what float32 cannot hold; no rank took it")
    exponent = min(_EXPONENT - math.frexp(reach)[1], _MAX_EXPONENT)
    message = np.empty(_HEAD.size + 2 * values.size, np.uint8)
    _HEAD.pack_into(message.data, 0, _MARK, part.stamp, step, exponent)
    torch.from_numpy(message[_HEAD.size :].view(np.float16)).copy_(numbers * 2.0**exponent)
    return message


def _unpack(message: NDArray[np.uint8], n: int, step: int) -> Vector:
    """Read `[n] float32` back."""
    if message.size != _HEAD.size + 2 * n:
        raise MessageError(f"a message of {n} float16 numbers has {_HEAD.size + 2 * n} bytes, {message.size} came")
    mark, _, found, exponent = _HEAD.unpack_from(message.data)
    if mark != _MARK or found != step or abs(exponent) > _MAX_EXPONENT:
        raise MessageError(f"this is no float16 message of step {step}: mark {mark!r}, step {found}")
    values: Vector = message[_HEAD.size :].view(np.float16).astype(np.float32)
    if not np.isfinite(values).all():
        raise MessageError("a float16 message holds numbers that are not finite")
    values *= np.float32(2.0**-exponent)
    return values


def _refuse_non_finite(values: Vector) -> None:
    if np.isfinite(values).all():
        return
    i = int(np.argmin(np.isfinite(values)))
    raise NonFiniteError(
        f"the update plus what was kept back is {values[i]} at element {i} of {values.size}; no rank took the step. "
        "Lower the learning rate, clip the gradients, or look for NaN in the data"
    )
