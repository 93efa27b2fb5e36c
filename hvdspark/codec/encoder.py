"""The encoder of one rank: residual, thresholds and the message buffer, brought together."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hvdspark.codec.devices import open_store
from hvdspark.codec.groups import Groups
from hvdspark.codec.inspection import EncodingRecord, Magnitudes, magnitudes, records
from hvdspark.codec.magnitude import MAGNITUDES, Taken
from hvdspark.codec.message import DENSE, Checked, Message, Stamp
from hvdspark.codec.names import Names
from hvdspark.codec.options import check_options, check_parts, check_state, checked_ends
from hvdspark.codec.residual import NoOpResidualPostProcessor, ResidualPostProcessor
from hvdspark.codec.store import Update
from hvdspark.codec.tau import MAX_TAU, round_tau
from hvdspark.codec.threshold import DENSE_DENSITY, FixedThresholdAlgorithm, ThresholdAlgorithm, ThresholdState
from hvdspark.codec.thresholds import Thresholds
from hvdspark.codec.writer import Writer
from hvdspark.errors import ConfigurationError, NonFiniteError

__all__ = ["Encoder"]

_CHUNK = 1 << 16
_KEYS = {"n", "iteration", "thresholds", "densities", "clipped_mass", "residual"}


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
        How codes are written: ``"sparse"``, ``"rice"`` or ``"bitmap"``; ``"auto"``: the smallest of them for each
        message, by exact size. Or ``"dense"``: every element, exactly, so that no residual is left.
    magnitude
        What a code stands for: ``"threshold"``; ``"mean"``: the mean magnitude of what is sent (of each group), at
        most twice the threshold and rounded down to a bfloat16 number; or ``"multiples"``: the largest multiple of the
        threshold, up to eight, that is no larger than the element, for three bits more a code.
    group_ends
        Where each group of elements with a threshold of its own ends; the last one is `n`. None: one for all.
    device
        Where updates and residual live: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``. Messages are written on the host.
    num_threads
        The most threads an encode uses; None: the CPUs this process may use, at most 8. Messages do not depend on it.
    names
        ``(name, start, stop)`` of the parameters inside the flat update, for error messages.
    observer
        Called after each encode with one `EncodingRecord` a group; if it raises, the encode is undone. It costs a sort
        of the residual.

    Raises
    ------
    ConfigurationError, UnsupportedError
        For an option out of range; for a device that is not there.
    """

    def __init__(
        self,
        n: int,
        *,
        threshold_algorithm: ThresholdAlgorithm | None = None,
        residual_post_processor: ResidualPostProcessor | None = None,
        format: Literal["auto", "sparse", "rice", "bitmap", "dense"] = "auto",  # noqa: A002  # the option's public name
        magnitude: Literal["threshold", "mean", "multiples"] = "threshold",
        group_ends: Sequence[int] | None = None,
        device: str = "cpu",
        num_threads: int | None = None,
        names: Sequence[tuple[str, int, int]] | None = None,
        observer: Callable[[EncodingRecord], None] | None = None,
    ) -> None:
        check_options(n, format, magnitude, num_threads, group_ends)
        check_parts(threshold_algorithm, residual_post_processor, format)
        self._n = n
        self._post_processor = residual_post_processor or NoOpResidualPostProcessor()
        self._format = format
        self._magnitude = MAGNITUDES[magnitude]
        self._num_threads = num_threads
        self._names = Names(names, n)
        self._observer = observer
        ends = [n] if group_ends is None else checked_ends(group_ends, n)
        self._ends = np.array(ends, np.int64)
        # A dense encoder asks no algorithm; any will do to hold its state.
        self._thresholds = Thresholds(threshold_algorithm or FixedThresholdAlgorithm(1.0), ends)
        self._before = self._thresholds.states
        self._taus = [0.0] * len(ends)
        self._clipped_mass = 0.0
        self._store = open_store(n, device, num_threads)
        self._device = device
        self._sent = np.empty(0, np.int32)
        self._writer = Writer(n, len(ends), format, self._magnitude.bits, num_threads)

    @property
    def n(self) -> int:
        """Number of elements of an update."""
        return self._n

    @property
    def device(self) -> str:
        """Where updates and residual live."""
        return self._device

    @property
    def sent(self) -> NDArray[np.int32]:
        """The codes of the last message, ``[count] int32``, valid until the next encode; none of a dense one."""
        return self._sent

    @property
    def residual(self) -> Any:
        """What has not been sent yet, ``[n] float32``: the array itself, writable, on its device."""
        return self._store.residual

    @property
    def thresholds(self) -> tuple[float | None, ...]:
        """The tau of each group, of the last message or of a state that was loaded; None while undecided."""
        return tuple(tau or None for tau in self._taus)

    @property
    def threshold(self) -> float | None:
        """The mean of `thresholds`, over the groups that have one; None while none has."""
        decided = [tau for tau in self.thresholds if tau is not None]
        return math.fsum(decided) / len(decided) if decided else None

    @property
    def density(self) -> float | None:
        """The share of elements that messages last carried; a dense one counts as 1/16. None before the first.

        It is what the threshold algorithm goes by: of this encoder's last message, or of all ranks' after `agree`.
        """
        sizes = [stop - start for start, stop in self._thresholds.spans]
        densities = [state.density for state in self._thresholds.states]
        if None in densities:
            return None
        return math.fsum(size * (density or 0.0) for size, density in zip(sizes, densities, strict=True)) / self._n

    @property
    def clipped_mass(self) -> float:
        """The sum of magnitudes that the post-processor has thrown away so far, in units of the update."""
        return self._clipped_mass

    def encode(self, update: Any, stamp: Stamp | None = None) -> NDArray[np.uint8]:
        """Add an update to the residual and take a message out of it.

        Parameters
        ----------
        update
            ``[n] float32``, contiguous, finite, read only, on the encoder's device.
        stamp
            What the header says of the sender.

        Returns
        -------
        ``[bytes] uint8``
            The message: memory of the encoder, valid until the next encode.

        Raises
        ------
        NonFiniteError
            If the update, or its sum with the residual, is not finite anywhere. It is found in the pass that encodes;
            the residual is then as it was, to within a rounding or two of the sum (docs/adr/0005).
        """
        self._store.check(update, "update")
        return self._encode(Update(update), stamp or Stamp())

    def encode_difference(self, before: Any, after: Any, stamp: Stamp | None = None) -> NDArray[np.uint8]:
        """Encode the update ``before - after`` (weights before and after a step) in the same pass; else as `encode`."""
        self._store.check(before, "before")
        self._store.check(after, "after")
        return self._encode(Update(before, after), stamp or Stamp())

    def encode_accumulated(self, stamp: Stamp | None = None) -> NDArray[np.uint8]:
        """Take a message out of the residual, to which the caller has added the update: 4 bytes an element, not 12.

        For gradients that backward accumulates straight into `residual`: let every ``parameter.grad`` be a view of it
        and never zero them. NaN cannot be taken back then: `NonFiniteError` says that the residual holds it.
        """
        return self._encode(Update(), stamp or Stamp())

    def put_back(self, message: Message) -> None:
        """Undo the last encode, whose message no rank has applied: add it to the residual, forget its threshold.

        What the residual post-processor has thrown away stays so.
        """
        from hvdspark.codec.decoder import decode_into

        decode_into([message], self._store.residual, num_threads=self._num_threads)
        self._thresholds.states = self._before

    def agree(self, messages: Sequence[Checked]) -> None:
        """Go on from what all ranks' last messages say, so that all use the same thresholds for the next ones.

        Parameters
        ----------
        messages
            Of this step, one a rank, in rank order, as `read_messages` found them.

        Raises
        ------
        ConfigurationError
            If a message has other groups of elements than this encoder.
        """
        groups = [message.groups for message in messages]
        sizes = [len(each.counts) for each in groups]
        if sizes.count(self._ends.size) != len(sizes):
            raise ConfigurationError(f"this encoder has {self._ends.size} groups, the messages have {sizes}")
        densities = [self._densities(message.groups, dense=message.form is DENSE) for message in messages]
        self._thresholds.agree(groups, densities)

    def agree_on(self, groups: Sequence[Groups]) -> None:
        """Go on from what is known of the groups of all ranks' last messages, none of them dense; else as `agree`."""
        self._thresholds.agree(groups, [self._densities(each, dense=False) for each in groups])

    def state_dict(self) -> dict[str, Any]:
        """Return a copy of everything that the next message depends on, but for the options.

        Returns
        -------
        dict
            ``n``, ``iteration``, ``thresholds`` (one a group, not rounded), ``densities``, ``clipped_mass``: plain
            numbers, None, and lists of them, which JSON carries exactly; ``residual``: ``[n] float32``.
        """
        states = self._thresholds.states
        return {
            "n": self._n,
            "iteration": states[0].iteration,
            "thresholds": [state.threshold for state in states],
            "densities": [state.density for state in states],
            "clipped_mass": self._clipped_mass,
            "residual": self._store.copy(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, bit for bit, given the same options.

        Raises
        ------
        ConfigurationError
            If the state is of another encoder, or damaged; nothing has changed then.
        """
        from hvdspark.codec.host import check_array

        if set(state) != _KEYS:
            raise ConfigurationError(f"an encoder's state has the keys {sorted(_KEYS)}, not {sorted(state)}")
        if state["n"] != self._n:
            raise ConfigurationError(f"the state is of an encoder of {state['n']} elements, this one has {self._n}")
        thresholds, densities = list(state["thresholds"]), list(state["densities"])
        if not len(thresholds) == len(densities) == self._ends.size:
            raise ConfigurationError(
                f"the state has {len(thresholds)} thresholds, this encoder {self._ends.size} groups of elements"
            )
        check_array(state["residual"], "residual", self._n)
        pairs = zip(thresholds, densities, strict=True)
        sizes = [each.elements for each in self._thresholds.states]
        states = [ThresholdState(state["iteration"], *pair, size) for pair, size in zip(pairs, sizes, strict=True)]
        for each in states:
            check_state(each, state["clipped_mass"], state["residual"])
        self._store.load(state["residual"])
        self._clipped_mass = state["clipped_mass"]
        self._thresholds.states = self._before = states
        self._taus = [round_tau(each) if each else 0.0 for each in thresholds]

    # ---- an encode ---------------------------------------------------------------------------------------------

    def _encode(self, update: Update, stamp: Stamp) -> NDArray[np.uint8]:
        if self._format == "dense":
            return self._encode_dense(update, stamp)
        thresholds = self._thresholds.next(lambda where: self._finite_totals(update, where))
        seen = self._look(update) if self._observer else []
        self._taus = [round_tau(each) if each else 0.0 for each in thresholds]
        taus = np.array([each or MAX_TAU for each in self._taus], np.float32)  # without one all elements are zero
        steps = self._magnitude.steps(taus)
        codes, counts, bad = self._store.encode(update, self._ends, taus, steps)
        if bad >= 0:
            self._refuse(update, bad)
        self._before = self._thresholds.states
        taken, self._sent = Taken(steps.tolist()), codes
        try:  # the codes have left the residual: either the caller gets them, or they go back
            taken = self._magnitude.take(self._store, codes, counts, self._taus)
            groups = Groups(counts, thresholds, taken.magnitudes)
            form, message = self._writer.write(codes, taken.multiples, groups, stamp)
            self._post_process()
            self._thresholds.advance(thresholds, self._densities(groups, dense=False))
            self._report(groups, taken, seen, form, message.size, stamp)
        except BaseException:
            taken.put_back(self._store, codes, np.cumsum(counts))
            self._thresholds.states = self._before
            raise
        return message

    def _encode_dense(self, update: Update, stamp: Stamp) -> NDArray[np.uint8]:
        """Send everything: the sum goes straight into the payload, and no residual is left."""
        seen = self._look(update) if self._observer else []
        bad = self._store.take_all(update, self._writer.dense_values())
        if bad >= 0:
            self._refuse(update, bad)
        self._before, self._sent = self._thresholds.states, np.empty(0, np.int32)
        groups = Groups([self._n], [0.0], [0.0])
        message = self._writer.seal_dense(groups, stamp)
        self._thresholds.advance([0.0], self._densities(groups, dense=True))
        try:
            self._report(groups, Taken([0.0]), seen, DENSE.name, message.size, stamp)
        except BaseException:
            self.put_back(message)
            raise
        return message

    def _densities(self, groups: Groups, *, dense: bool) -> list[float]:
        if dense:
            return [DENSE_DENSITY] * self._ends.size
        sizes = (stop - start for start, stop in self._thresholds.spans)
        return [count / size if size else 0.0 for count, size in zip(groups.counts, sizes, strict=True)]

    def _post_process(self) -> None:
        iteration = self._thresholds.states[0].iteration
        for (start, stop), tau in zip(self._thresholds.spans, self._taus, strict=True):
            if tau:
                part = self._store.residual[start:stop]
                self._clipped_mass += self._post_processor.process(part, iteration, tau, self._num_threads)

    # ---- what is looked at -------------------------------------------------------------------------------------

    def _look(self, update: Update) -> list[Magnitudes]:
        return [magnitudes(lambda where: self._finite_totals(update, where), *span) for span in self._thresholds.spans]

    def _report(
        self, groups: Groups, taken: Taken, seen: list[Magnitudes], form: str, message_bytes: int, stamp: Stamp
    ) -> None:
        if not self._observer:
            return
        about = (stamp, form, message_bytes, self._clipped_mass)
        multiples = taken.mean_multiples(groups.counts)
        for record in records(self._thresholds.spans, groups, self._taus, multiples, seen, about):
            self._observer(record)

    # ---- what is refused ---------------------------------------------------------------------------------------

    def _finite_totals(self, update: Update, where: Any) -> NDArray[np.float32]:
        """Return elements of the sum, from which a threshold is to be drawn: no number can be drawn from NaN."""
        part = self._store.totals(update, where)
        if not np.isfinite(part).all():
            for begin in range(0, self._n, _CHUNK):
                finite = np.isfinite(self._store.totals(update, slice(begin, begin + _CHUNK)))
                if not finite.all():
                    self._refuse(update, begin + int(np.argmin(finite)))
        return part

    def _refuse(self, update: Update, i: int) -> None:
        """Raise for an element that is not finite."""
        one, place = slice(i, i + 1), self._names.place(i)
        value, kept = self._store.updates(update, one)[0], self._store.kept(one)[0]
        if not np.isfinite(kept):
            raise NonFiniteError(
                f"the residual is {kept} at {place}: something wrote that into it between encodes; load a checkpoint, "
                "or set the residual to zero"
            )
        what = "the update" if not np.isfinite(value) else f"the update ({value}) plus the residual ({kept})"
        total = value if not np.isfinite(value) else "no float32 number"
        raise NonFiniteError(f"{what} is {total} at {place}; nothing was encoded, the residual is as before")
