"""The threshold codec between ranks: one sparse message a step and rank, gathered by all, applied in rank order."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hvdspark.codec import Decoded, Encoder, EncodingRecord, Expected, Stamp, read_messages
from hvdspark.collectives import Collective
from hvdspark.errors import ConfigurationError, RankMismatch, UnsupportedError
from hvdspark.sync.base import Exchange, Vector
from hvdspark.sync.failures import deliver, failure_message
from hvdspark.sync.hosts import Hosts
from hvdspark.sync.part import Part, check_counts
from hvdspark.sync.phases import Phases
from hvdspark.sync.saved import encoder_state, saved_count, with_tensor

__all__ = ["CodedExchange", "encoding_log"]

_KEYS = {"encoder", "sent", "density_sum"}


class CodedExchange(Exchange):
    """Sends what exceeds a threshold, keeps the rest (Strom, Interspeech 2015).

    Parameters
    ----------
    collective : Collective
        The ranks.
    encoder : Encoder
        This rank's residual and threshold.
    run_id : int
        Equal on all ranks; marks the messages of this run.
    phases : Phases
        Where the time is counted.
    num_threads : int, optional
        Threads of the decoder; None: as many as this process may use.
    hosts : Hosts, optional
        The ranks of a host sum what they have, and its first rank encodes for them. None: every rank does.
    """

    def __init__(
        self,
        collective: Collective,
        encoder: Encoder,
        run_id: int,
        phases: Phases,
        num_threads: int | None = None,
        hosts: Hosts | None = None,
    ) -> None:
        self.device = torch.device(encoder.device)
        self._collective = collective
        self._encoder = encoder
        self._run_id = run_id
        self._phases = phases
        self._num_threads = num_threads
        self._hosts = hosts
        self._senders = list(range(collective.size)) if hosts is None else hosts.leaders
        self._place = collective.rank if hosts is None else hosts.place
        self._is_sender = hosts is None or hosts.is_leader
        self._scratch: Vector | None = None
        self._codes: NDArray[np.int32] = np.empty(0, np.int32)
        self._sent = 0
        self._density_sum = 0.0

    @property
    def residual(self) -> Vector:  # type: ignore[override]  # the encoder owns it
        """What is kept back, `[n] float32`; by the first rank of a host for all of them."""
        residual: Vector = self._encoder.residual
        return residual

    @property
    def sent(self) -> NDArray[np.int32]:  # type: ignore[override]  # the encoder owns it
        """What this rank, or its host, last sent, `[count] int32`."""
        return self._encoder.sent if self._is_sender else self._codes

    def add_total(self, vector: Vector, out: Vector, scale: float, *, part: Part) -> None:
        """Do ``out += scale * sum_r decoded_r``; what was not sent of `vector` stays in the residual."""
        if self._hosts is None:
            self._exchange(lambda stamp: self._encoder.encode(vector, stamp), out, scale, part)
            return
        together, problem = self._sum_inside(self._hosts, vector, part)

        def encode(stamp: Stamp) -> NDArray[np.uint8]:
            if problem:
                raise RankMismatch(problem)
            return self._encoder.encode(vector, stamp)

        self._exchange(encode, out, scale, together)

    def add_difference(self, before: Vector, after: Vector, out: Vector, scale: float, *, part: Part) -> None:
        """Do ``out += scale * sum_r decoded_r`` for the coded differences ``before - after_r``."""
        if self._hosts is None:
            self._exchange(lambda stamp: self._encoder.encode_difference(before, after, stamp), out, scale, part)
        else:
            self.add_total(self._difference(before, after), out, scale, part=part)

    def _difference(self, before: Vector, after: Vector) -> Vector:
        if not isinstance(before, np.ndarray):
            return before - after
        if self._scratch is None:
            self._scratch = np.empty_like(before)
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused by its place
            return np.subtract(before, after, out=self._scratch)

    def _sum_inside(self, hosts: Hosts, vector: Vector, part: Part) -> tuple[Part, str]:
        """Bring the ranks of this host together; return their part, and what is wrong with it."""
        with self._phases.timed("sum inside"):
            numbers = np.array([part.examples or 0, part.examples is None, 1], np.int64)
            hosts.sum_inside(numbers)
            if isinstance(vector, np.ndarray):
                hosts.sum_inside(vector)
            else:
                copy = vector.cpu()
                hosts.sum_inside(copy.numpy())
                vector.copy_(copy)
        examples, uncounted, ranks = numbers.tolist()
        if uncounted == 0:
            return Part(examples, part.total), ""
        if uncounted == ranks:
            return Part(), ""
        where = f"{uncounted} of {ranks} ranks of {self._collective.host}"
        return Part(), f"step(examples=...) must be given on all ranks or on none: {where} did not give it"

    def _exchange(self, encode: Callable[[Stamp], NDArray[np.uint8]], out: Vector, scale: float, part: Part) -> None:
        message, failure = self._encoded(encode, part) if self._is_sender else (np.empty(0, np.uint8), None)
        try:
            with self._phases.timed("exchange"):
                told = message if failure is None else failure_message(failure)
                messages = deliver(lambda: self._ranks.allgather(told), failure, self._senders, self._sent)
            with self._phases.timed("decode"):
                found = self._read(messages, scale, part)
                found.add_to(out, self._num_threads)
        except BaseException:
            if message.size:  # nobody has applied it: it goes back to where it came from
                self._encoder.put_back(message)
            raise
        self._encoder.agree(found.messages)
        self._codes = found.codes(self._place)
        self._sent += 1
        self._density_sum += found.messages[self._place].header.count / self._encoder.n

    @property
    def _ranks(self) -> Collective | Hosts:
        return self._collective if self._hosts is None else self._hosts

    def _encoded(
        self, encode: Callable[[Stamp], NDArray[np.uint8]], part: Part
    ) -> tuple[NDArray[np.uint8], Exception | None]:
        """Return the message (empty where there is none) and why it cannot be sent, which the others must hear of."""
        stamp = Stamp(run_id=self._run_id, rank=self._collective.rank, step=self._sent, examples=part.stamp)
        message: NDArray[np.uint8] = np.empty(0, np.uint8)
        limit = self._ranks.max_message_bytes
        try:
            with self._phases.timed("encode"):
                message = encode(stamp)
            if message.size > limit:
                raise UnsupportedError(
                    f"this step's message has {message.size} bytes, {len(self._senders)} senders can send {limit} "
                    "bytes each at a time: raise the threshold, or let it find itself (initial_threshold='auto')"
                )
        except Exception as error:  # noqa: BLE001  raised again as soon as the others know
            return message, error
        return message, None

    def _read(self, messages: list[NDArray[np.uint8]], scale: float, part: Part) -> Decoded:
        """Make sure of all that came, before any of it is added."""
        expected = [Expected(run_id=self._run_id, rank=rank, step=self._sent) for rank in self._senders]
        found = read_messages(messages, self._encoder.n, scale, expected=expected, num_threads=self._num_threads)
        check_counts(part, [each.header.examples for each in found.messages])
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return the encoder's state and the number of messages sent."""
        return {
            "encoder": with_tensor(self._encoder.state_dict()),
            "sent": self._sent,
            "density_sum": self._density_sum,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        if set(state) != _KEYS:
            raise ConfigurationError(
                f"the state of a coded exchange has the keys {sorted(_KEYS)}, not {sorted(state)}: is it of "
                'exchange="dense"?'
            )
        sent, density_sum = saved_count(state), float(state["density_sum"])
        self._encoder.load_state_dict(encoder_state(state["encoder"]))
        self._sent = sent
        self._density_sum = density_sum

    def measures(self) -> dict[str, float]:
        """Return mean density, last threshold and clipped mass."""
        return {
            "density": self._density_sum / self._sent if self._sent else 0.0,
            "threshold": self._encoder.threshold or 0.0,
            "clipped_mass": self._encoder.clipped_mass,
        }


def encoding_log(debug_mode: bool | Callable[[EncodingRecord], None]) -> Callable[[EncodingRecord], None] | None:  # noqa: FBT001
    """Return what the encoding debug mode does after each encode: a log line, then the user's function; None if off."""
    if debug_mode is False:
        return None
    listener = None if debug_mode is True else debug_mode

    def observe(record: EncodingRecord) -> None:
        logging.getLogger("hvdspark.encoding").info("%s", record)
        if listener is not None:
            listener(record)

    return observe
