"""The threshold codec between ranks: one sparse message a step and rank, gathered by all, applied in rank order."""

from __future__ import annotations

from typing import Any

from hvdspark.codec import Encoder, Expected, Stamp, decode_into
from hvdspark.collectives import Collective
from hvdspark.sync.base import Exchange, Vector
from hvdspark.sync.phases import Phases

__all__ = ["CodedExchange"]


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
    """

    def __init__(self, collective: Collective, encoder: Encoder, run_id: int, phases: Phases) -> None:
        self._collective = collective
        self._encoder = encoder
        self._run_id = run_id
        self._phases = phases
        self.bytes_sent = 0
        self._sent = 0
        self._density_sum = 0.0

    @property
    def residual(self) -> Vector:  # type: ignore[override]  # the encoder owns it
        """What is kept back, `[n] float32`."""
        return self._encoder.residual

    def add_total(self, vector: Vector, out: Vector, scale: float, *, examples: int) -> None:
        """Do ``out += scale * sum_r decoded_r``; what was not sent of `vector` stays in the residual."""
        with self._phases.timed("encode"):
            message = self._encoder.encode(vector, self._stamp(examples))
        self._exchange(message, out, scale)

    def subtract_difference(self, agreed: Vector, local: Vector, scale: float, *, examples: int) -> None:
        """Do ``agreed -= scale * sum_r decoded_r`` for the coded differences ``agreed - local_r``."""
        with self._phases.timed("encode"):
            message = self._encoder.encode_difference(agreed, local, self._stamp(examples))
        self._exchange(message, agreed, -scale)

    def _stamp(self, examples: int) -> Stamp:
        return Stamp(run_id=self._run_id, rank=self._collective.rank, step=self._sent, examples=examples)

    def _exchange(self, message: Any, out: Vector, scale: float) -> None:
        with self._phases.timed("exchange"):
            before = self._collective.sent_bytes
            messages = self._collective.allgather(message)
            self.bytes_sent += self._collective.sent_bytes - before
        with self._phases.timed("decode"):
            ranks = range(self._collective.size)
            expected = [Expected(run_id=self._run_id, rank=rank, step=self._sent) for rank in ranks]
            decode_into(messages, out, scale, expected=expected)
        self._sent += 1
        self._density_sum += self._encoder.density or 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the encoder's state and the number of messages sent."""
        return {
            "encoder": self._encoder.state_dict(),
            "bytes_sent": self.bytes_sent,
            "sent": self._sent,
            "density_sum": self._density_sum,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        self._encoder.load_state_dict(state["encoder"])
        self.bytes_sent = int(state["bytes_sent"])
        self._sent = int(state["sent"])
        self._density_sum = float(state["density_sum"])

    def measures(self) -> dict[str, float]:
        """Return mean density, last threshold and clipped mass."""
        return {
            "density": self._density_sum / self._sent if self._sent else 0.0,
            "threshold": self._encoder.threshold or 0.0,
            "clipped_mass": self._encoder.clipped_mass,
        }
