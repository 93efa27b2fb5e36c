"""The encoder of one rank: the residual, the threshold, and the message buffer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hvdspark.codec.format import Format
from hvdspark.codec.message import DENSE, HEADER_BYTES, SPARSE, Stamp, seal
from hvdspark.codec.quantile import magnitude_quantile
from hvdspark.codec.residual import NoOpResidualPostProcessor, ResidualPostProcessor
from hvdspark.codec.source import Difference, Source, Update, check_array
from hvdspark.codec.tau import MIN_TAU, round_tau
from hvdspark.codec.threshold import DENSE_DENSITY, ThresholdAlgorithm, ThresholdState
from hvdspark.errors import ConfigurationError, NonFiniteError, UnsupportedError

__all__ = ["Encoder"]

_MAX_N = 2**31 - 1  # a code is a signed 32-bit index, counted from one
_CHUNK = 1 << 16

# An update below it cannot make a finite residual overflow: it is half a unit in the last place of the largest float32
# number, so that the sum is rounded back to that number. One comparison an element covers the update and the sum.
_HARMLESS = 2.0**103


@dataclass(frozen=True)
class _Written:
    """A payload that stands in the buffer, and what it took."""

    form: Format
    count: int
    threshold: float | None  # as the algorithm gave it
    tau: float  # as the header carries it; 0 where there is none

    def density(self, n: int) -> float:
        return self.count / n if self.form.coded else DENSE_DENSITY


class Encoder:
    """Turns updates into messages and keeps what it does not send.

    Law: after every encode, ``decoded message + residual + what was clipped == residual before + update``: exactly
    where float32 allows, and within one rounding elsewhere; in every format, and at every change of format.

    Parameters
    ----------
    n
        Number of elements of an update, 1 to 2**31 - 1.
    threshold_algorithm
        Chooses the threshold of each encode. ``format="dense"`` needs none and asks none.
    residual_post_processor
        Edits the residual after each encode that used a threshold; None for none.
    format
        ``"sparse"``; ``"dense"``: every element, exactly, so that no residual is left; ``"auto"``: the smallest of them
        for each message, by exact size, dense where that costs no more.
    device
        Where updates and residual live: ``"cpu"``.
    num_threads
        The most threads an encode uses; None: the CPUs this process may use, at most 8. Messages do not depend on it.
    names
        ``(name, start, stop)`` of the parameters inside the flat update, for error messages.

    Raises
    ------
    ConfigurationError
        For an option out of range.
    UnsupportedError
        For a device that is not there yet.
    """

    def __init__(
        self,
        n: int,
        *,
        threshold_algorithm: ThresholdAlgorithm | None = None,
        residual_post_processor: ResidualPostProcessor | None = None,
        format: Literal["auto", "sparse", "dense"] = "auto",  # noqa: A002  # the public name of the option
        device: str = "cpu",
        num_threads: int | None = None,
        names: Sequence[tuple[str, int, int]] | None = None,
    ) -> None:
        _check_options(n, format, device, num_threads)
        _check_parts(threshold_algorithm, residual_post_processor, format)
        self._n = n
        self._algorithm = threshold_algorithm
        self._post_processor = residual_post_processor or NoOpResidualPostProcessor()
        self._format = format
        self._num_threads = num_threads
        self._names = _checked_names(names, n)
        self._state = ThresholdState()
        self._clipped_mass = 0.0
        self._tau: float | None = None
        self._residual: NDArray[np.float32] = np.zeros(n, dtype=np.float32)
        # Room for the largest message. Only what is written becomes memory: a sparse message touches little of it.
        self._buffer: NDArray[np.uint8] = np.empty(HEADER_BYTES + 4 * n, dtype=np.uint8)

    @property
    def n(self) -> int:
        """Number of elements of an update."""
        return self._n

    @property
    def residual(self) -> NDArray[np.float32]:
        """What has not been sent yet, ``[n] float32``: the array itself, writable, in units of the update."""
        return self._residual

    @property
    def threshold(self) -> float | None:
        """The threshold of the last message as its header carries it, in units of the update; None while undecided."""
        return self._tau

    @property
    def density(self) -> float | None:
        """The share of elements that the last message carried; a dense one counts as 1/16. None before the first.

        The threshold algorithm sees this number at the next encode. Ranks that agree on a mean may set it first.
        """
        return self._state.density

    @density.setter
    def density(self, density: float) -> None:
        if not 0.0 <= density <= 1.0:
            raise ConfigurationError(f"density must be in 0..1, not {density}")
        self._state = ThresholdState(self._state.iteration, self._state.threshold, float(density))

    @property
    def clipped_mass(self) -> float:
        """The sum of magnitudes that the post-processor has thrown away so far, in units of the update."""
        return self._clipped_mass

    def encode(self, update: NDArray[np.float32], stamp: Stamp | None = None) -> NDArray[np.uint8]:
        """Add an update to the residual and take a message out of it.

        Parameters
        ----------
        update
            ``[n] float32``, contiguous, finite, read only.
        stamp
            What the header says of the sender.

        Returns
        -------
        ``[bytes] uint8``
            The message: memory of the encoder, valid until the next encode.

        Raises
        ------
        NonFiniteError
            If the update, or its sum with the residual, is not finite anywhere. Nothing has changed then.
        """
        check_array(update, "update", self._n)
        return self._encode(Update(update), stamp or Stamp())

    def encode_difference(
        self, before: NDArray[np.float32], after: NDArray[np.float32], stamp: Stamp | None = None
    ) -> NDArray[np.uint8]:
        """Encode the update ``before - after`` (weights before and after a step) in the same pass; else as `encode`."""
        check_array(before, "before", self._n)
        check_array(after, "after", self._n)
        return self._encode(Difference(before, after), stamp or Stamp())

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything that the next message depends on, but for the options.

        Returns
        -------
        dict
            ``n``, ``iteration``, ``threshold`` (not rounded), ``density``, ``clipped_mass``: plain numbers or None,
            which JSON carries exactly; ``residual``: ``[n] float32``.
        """
        return {
            "n": self._n,
            "iteration": self._state.iteration,
            "threshold": self._state.threshold,
            "density": self._state.density,
            "clipped_mass": self._clipped_mass,
            "residual": self._residual.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, bit for bit, given the same options.

        Raises
        ------
        ConfigurationError
            If the state is of another encoder, or damaged; nothing has changed then.
        """
        keys = {"n", "iteration", "threshold", "density", "clipped_mass", "residual"}
        if set(state) != keys:
            raise ConfigurationError(f"an encoder's state has the keys {sorted(keys)}, not {sorted(state)}")
        if state["n"] != self._n:
            raise ConfigurationError(f"the state is of an encoder of {state['n']} elements, this one has {self._n}")
        check_array(state["residual"], "residual", self._n)
        restored = ThresholdState(state["iteration"], state["threshold"], state["density"])
        _check_state(restored, state["clipped_mass"], state["residual"])
        self._residual[:] = state["residual"]
        self._clipped_mass = state["clipped_mass"]
        self._state = restored
        self._tau = None if restored.threshold is None else round_tau(restored.threshold)

    def _encode(self, source: Source, stamp: Stamp) -> NDArray[np.uint8]:
        for name, array in source.arrays.items():
            if np.may_share_memory(array, self._residual):
                raise ConfigurationError(f"{name} lies in the memory of the encoder's residual: give it a copy")
        if source.first_outside(_HARMLESS, self._num_threads) >= 0:
            self._refuse_non_finite(source)
        written = self._write_dense(source) if self._format == "dense" else self._write_coded(source)
        message = self._buffer[: HEADER_BYTES + written.form.payload_bytes(self._n, written.count)]
        seal(message, written.form, self._n, written.count, written.tau, stamp)
        if written.form.coded and written.tau:
            self._clipped_mass += self._post_processor.process(
                self._residual, self._state.iteration, written.tau, self._num_threads
            )
        self._tau = written.tau or None
        self._state = ThresholdState(self._state.iteration + 1, written.threshold, written.density(self._n))
        return message

    def _write_dense(self, source: Source, threshold: float | None = None, tau: float = 0.0) -> _Written:
        """Send everything: the sum goes straight into the payload, and no residual is left."""
        from hvdspark_kernels.threshold.cpu import first_outside

        payload = self._buffer[HEADER_BYTES:]
        values: NDArray[np.float32] = payload.view(np.float32)
        with np.errstate(invalid="ignore"):  # the residual is writable: what stands there is looked at below
            source.add_to(self._residual, values)
        if first_outside(values, math.inf, self._num_threads) >= 0:
            self._refuse_non_finite(source)
        DENSE.write(values, payload)
        self._residual.fill(0.0)
        return _Written(DENSE, self._n, threshold, tau)

    def _write_coded(self, source: Source) -> _Written:
        """Send codes of what reaches the threshold, or everything densely where all of it does."""
        threshold = self._next_threshold(source)
        if threshold is None:
            source.add_to(self._residual, self._residual)
            return _Written(SPARSE, 0, None, 0.0)
        tau = round_tau(threshold)
        if self._format == "auto" and self._all_reach(source, tau):
            return self._write_dense(source, threshold, tau)
        payload = self._buffer[HEADER_BYTES:]
        codes: NDArray[np.int32] = payload.view(np.int32)
        count, bad = source.encode(self._residual, tau, codes, self._num_threads)
        if bad >= 0:
            raise NonFiniteError(
                f"the residual is {self._residual[bad]} at {self._place(bad)}: something wrote that into it between "
                f"encodes; load a checkpoint, or set the residual to zero"
            )
        SPARSE.write(codes[:count], payload[: SPARSE.payload_bytes(self._n, count)])
        return _Written(SPARSE, count, threshold, tau)

    def _next_threshold(self, source: Source) -> float | None:
        """Ask the algorithm, and refuse what no threshold can be."""
        assert self._algorithm is not None, "only format='dense' goes without one"
        threshold = self._algorithm.next_threshold(self._state, lambda density: self._quantile(source, density))
        if threshold is None:
            if not self._is_zero(source):
                raise ConfigurationError(
                    f"{type(self._algorithm).__name__} gave no threshold for an update that is not zero"
                )
            return None
        if not (math.isfinite(threshold) and threshold > 0):
            raise ConfigurationError(
                f"{type(self._algorithm).__name__} gave {threshold}: a threshold is above zero, finite"
            )
        return max(float(threshold), MIN_TAU)  # a lower one would only take as long to come up again

    def _is_zero(self, source: Source) -> bool:
        """Tell whether residual and update are zero, as this process counts zero: it may flush denormal numbers."""
        parts = (slice(begin, begin + _CHUNK) for begin in range(0, self._n, _CHUNK))
        return not any(np.any(source.take(part) != 0) or np.any(self._residual[part] != 0) for part in parts)

    def _quantile(self, source: Source, density: float) -> float:
        return magnitude_quantile(lambda where: self._residual[where] + source.take(where), self._n, density)

    def _all_reach(self, source: Source, tau: float) -> bool:
        """Tell whether every element would be coded: only then is a dense message no larger."""
        begin, size = 0, 64  # nearly always the first few elements say no
        while begin < self._n:
            part = slice(begin, begin + size)
            if not (np.abs(self._residual[part] + source.take(part)) >= np.float32(tau)).all():
                return False
            begin, size = begin + size, _CHUNK
        return True

    def _refuse_non_finite(self, source: Source) -> None:
        """Raise if the update or its sum with the residual is not finite; return if it is only very large."""
        for begin in range(0, self._n, _CHUNK):
            part = slice(begin, begin + _CHUNK)
            update = source.take(part)
            with np.errstate(over="ignore", invalid="ignore"):
                finite = np.isfinite(self._residual[part] + update)
            if finite.all():
                continue
            i = begin + int(np.argmin(finite))
            value, kept = update[i - begin], self._residual[i]
            what = "the update" if not np.isfinite(value) else f"the update ({value}) plus the residual ({kept})"
            total = value if not np.isfinite(value) else "no float32 number"
            raise NonFiniteError(
                f"{what} is {total} at {self._place(i)}; nothing was encoded, the residual is as it was"
            )

    def _place(self, i: int) -> str:
        """Say where element `i` is, in words of the model where they are known."""
        for name, start, stop in self._names:
            if start <= i < stop:
                return f"element {i - start} of {name!r} (element {i} of {self._n})"
        return f"element {i} of {self._n}"


def _check_options(n: int, form: str, device: str, num_threads: int | None) -> None:
    if not isinstance(n, int) or isinstance(n, bool) or not 1 <= n <= _MAX_N:
        raise ConfigurationError(f"n must be a whole number in 1..{_MAX_N}, not {n!r}: cut larger updates into parts")
    if form not in ("auto", "sparse", "dense"):
        raise ConfigurationError(f"format must be 'auto', 'sparse' or 'dense', not {form!r}")
    if device != "cpu":
        raise UnsupportedError(f"device {device!r} is not there yet: encode on device='cpu'")
    if num_threads is not None and num_threads < 1:
        raise ConfigurationError(f"num_threads must be at least 1, not {num_threads}")


def _check_parts(algorithm: ThresholdAlgorithm | None, processor: ResidualPostProcessor | None, form: str) -> None:
    if algorithm is None and form != "dense":
        raise ConfigurationError(f"format={form!r} needs a threshold_algorithm, e.g. AdaptiveThresholdAlgorithm()")
    for name, part, kind in (
        ("threshold_algorithm", algorithm, ThresholdAlgorithm),
        ("residual_post_processor", processor, ResidualPostProcessor),
    ):
        if part is not None and not isinstance(part, kind):
            raise UnsupportedError(f"{name} must be a {kind.__name__}, not a {type(part).__name__}")


def _checked_names(names: Sequence[tuple[str, int, int]] | None, n: int) -> list[tuple[str, int, int]]:
    for name, start, stop in names or ():
        if not 0 <= start <= stop <= n:
            raise ConfigurationError(f"names: {name!r} spans {start}..{stop}, outside 0..{n}")
    return list(names or ())


def _check_state(state: ThresholdState, clipped_mass: Any, residual: NDArray[np.float32]) -> None:
    ok = (
        isinstance(state.iteration, int)
        and state.iteration >= 0
        and (state.threshold is None or (math.isfinite(state.threshold) and state.threshold > 0))
        and (state.density is None or 0.0 <= state.density <= 1.0)
        and isinstance(clipped_mass, float)
        and clipped_mass >= 0.0
        and bool(np.isfinite(residual).all())
    )
    if not ok:
        raise ConfigurationError(
            f"the state is damaged: {state}, clipped_mass {clipped_mass}, or a residual that is not finite"
        )
