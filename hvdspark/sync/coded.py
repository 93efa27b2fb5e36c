"""The threshold codec between ranks: one sparse message a step and rank, gathered by all, applied in rank order."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hvdspark.codec import Encoder, EncodingRecord, Expected, Stamp, decode_into, read_header
from hvdspark.collectives import Collective
from hvdspark.errors import ConfigurationError, RankLost, UnsupportedError
from hvdspark.sync.base import Exchange, Vector
from hvdspark.sync.part import Part, check_counts
from hvdspark.sync.phases import Phases

__all__ = ["CodedExchange", "encoding_log"]

_KEYS = {"encoder", "sent", "density_sum"}
_NOTICE = b"HVDSFAIL"  # in a message's place: the rank could make none, and says why


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
    """

    def __init__(
        self,
        collective: Collective,
        encoder: Encoder,
        run_id: int,
        phases: Phases,
        num_threads: int | None = None,
    ) -> None:
        self.device = torch.device(encoder.device)
        self._collective = collective
        self._encoder = encoder
        self._run_id = run_id
        self._phases = phases
        self._num_threads = num_threads
        self._sent = 0
        self._density_sum = 0.0

    @property
    def residual(self) -> Vector:  # type: ignore[override]  # the encoder owns it
        """What is kept back, `[n] float32`."""
        residual: Vector = self._encoder.residual
        return residual

    @property
    def sent(self) -> NDArray[np.int32]:  # type: ignore[override]  # the encoder owns it
        """What this rank last sent, `[count] int32`."""
        return self._encoder.sent

    def add_total(self, vector: Vector, out: Vector, scale: float, *, part: Part) -> None:
        """Do ``out += scale * sum_r decoded_r``; what was not sent of `vector` stays in the residual."""
        self._exchange(lambda stamp: self._encoder.encode(vector, stamp), out, scale, part)

    def add_difference(self, before: Vector, after: Vector, out: Vector, scale: float, *, part: Part) -> None:
        """Do ``out += scale * sum_r decoded_r`` for the coded differences ``before - after_r``."""
        self._exchange(lambda stamp: self._encoder.encode_difference(before, after, stamp), out, scale, part)

    def _exchange(self, encode: Callable[[Stamp], NDArray[np.uint8]], out: Vector, scale: float, part: Part) -> None:
        message, failure = self._encoded(encode, part)
        try:
            with self._phases.timed("exchange"):
                messages = self._collective.allgather(message if failure is None else _notice(failure))
            if failure is not None:
                raise failure
            with self._phases.timed("decode"):
                self._decode(messages, out, scale, part)
        except BaseException:
            if message.size:  # nobody has applied it: it goes back to where it came from
                self._encoder.put_back(message)
            raise
        self._encoder.agree(messages)
        self._sent += 1
        self._density_sum += read_header(message).count / self._encoder.n

    def _encoded(
        self, encode: Callable[[Stamp], NDArray[np.uint8]], part: Part
    ) -> tuple[NDArray[np.uint8], Exception | None]:
        """Return the message (empty where there is none) and why it cannot be sent, which the others must hear of."""
        stamp = Stamp(run_id=self._run_id, rank=self._collective.rank, step=self._sent, examples=part.stamp)
        message: NDArray[np.uint8] = np.empty(0, np.uint8)
        limit = self._collective.max_message_bytes
        try:
            with self._phases.timed("encode"):
                message = encode(stamp)
            if message.size > limit:
                raise UnsupportedError(
                    f"this step's message has {message.size} bytes, {self._collective.size} ranks can send {limit} "
                    "bytes each at a time: raise the threshold, or let it find itself (initial_threshold='auto')"
                )
        except Exception as error:  # noqa: BLE001  raised again as soon as the others know
            return message, error
        return message, None

    def _decode(self, messages: list[NDArray[np.uint8]], out: Vector, scale: float, part: Part) -> None:
        for rank, message in enumerate(messages):
            if message[: len(_NOTICE)].tobytes() == _NOTICE:
                why = message[len(_NOTICE) :].tobytes().decode(errors="replace")
                raise RankLost(f"rank {rank} could not send its part of step {self._sent}, so no rank took it: {why}")
        check_counts(part, [read_header(message).examples for message in messages])
        ranks = range(self._collective.size)
        expected = [Expected(run_id=self._run_id, rank=rank, step=self._sent) for rank in ranks]
        decode_into(messages, out, scale, expected=expected, num_threads=self._num_threads)

    def state_dict(self) -> dict[str, Any]:
        """Return the encoder's state and the number of messages sent."""
        encoder = self._encoder.state_dict()
        # as a tensor, which torch.load takes back without being asked to trust the file
        return {
            "encoder": {**encoder, "residual": torch.from_numpy(encoder["residual"])},
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
        encoder = dict(state["encoder"])
        if "residual" in encoder:
            encoder["residual"] = np.asarray(encoder["residual"])
        self._encoder.load_state_dict(encoder)
        self._sent = int(state["sent"])
        self._density_sum = float(state["density_sum"])

    def measures(self) -> dict[str, float]:
        """Return mean density, last threshold and clipped mass."""
        return {
            "density": self._density_sum / self._sent if self._sent else 0.0,
            "threshold": self._encoder.threshold or 0.0,
            "clipped_mass": self._encoder.clipped_mass,
        }


def _notice(failure: Exception) -> NDArray[np.uint8]:
    text = f"{type(failure).__name__}: {failure}"[:1000]
    return np.frombuffer(_NOTICE + text.encode(), np.uint8)


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
