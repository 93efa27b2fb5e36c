"""``exchange="regions"``: codes go to the owner of each region, which thresholds their sum again and sends it to all.

What a rank sends and receives is some five messages at most, however many ranks there are. Dryden et al.
("Communication quantization for data-parallel training of deep neural networks", MLHPC 2016) quantise the sum again,
with a residual of its own.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hvdspark.codec import (
    Cutter,
    Decoded,
    Encoder,
    Expected,
    Groups,
    Message,
    Stamp,
    read_header,
    read_messages,
)
from hvdspark.collectives import Collective
from hvdspark.errors import ConfigurationError, MessageError
from hvdspark.sync.base import Exchange, Vector
from hvdspark.sync.flat import as_array
from hvdspark.sync.part import Part, check_counts
from hvdspark.sync.phases import Phases
from hvdspark.sync.region_owner import RegionOwner
from hvdspark.sync.regions import Regions
from hvdspark.sync.saved import encoder_state, saved_count, with_tensor

__all__ = ["CodedRegionExchange"]

_TALLY = struct.Struct("<QfI")  # codes, threshold, checksum of the two
_KEYS = {"encoder", "owner", "sent", "density_sum"}


class CodedRegionExchange(Exchange):
    """Sends codes to owners, and what owners make of their sum to all.

    An owner's codes are multiples of its threshold, which is that of the ranks at least: sums are small multiples of
    it. What the owner keeps back stays in a residual of its own.

    Parameters
    ----------
    collective : Collective
        The ranks.
    encoder : Encoder
        This rank's residual and threshold; one group of elements.
    run_id : int
        Equal on all ranks; marks the messages of this run.
    phases : Phases
        Where the time is counted.
    num_threads : int, optional
        Threads of the codec; None: as many as this process may use.
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
        self._regions = Regions(collective, encoder.n, phases)
        self._encoder = encoder
        own = self._regions.own
        self._owner = RegionOwner(own.stop - own.start, encoder.device, num_threads)
        self._cutter = Cutter([span.stop for span in self._regions.spans], 1, num_threads)
        self._run_id = run_id
        self._phases = phases
        self._num_threads = num_threads
        self._sent = 0
        self._density_sum = 0.0
        self._let_through: NDArray[np.int32] = np.empty(0, np.int32)

    @property
    def residual(self) -> Vector:  # type: ignore[override]  # it is never None
        """What this rank keeps back, also as an owner, `[n] float32`: a copy."""
        kept = torch.as_tensor(self._encoder.residual).clone()
        kept[self._regions.own] += torch.as_tensor(self._owner.residual)
        return as_array(kept)  # type: ignore[no-any-return]  # of either kind

    @property
    def sent(self) -> NDArray[np.int32]:  # type: ignore[override]  # the encoder owns it
        """What this rank last sent and owners let through, `[count] int32`.

        Momentum of the rest is not to be zeroed: it has not reached the weights.
        """
        own, let_through = np.abs(self._encoder.sent), self._let_through
        places = np.searchsorted(let_through, own)
        places[places == let_through.size] = 0
        return self._encoder.sent[let_through[places] == own] if let_through.size else self._encoder.sent[:0]

    def add_total(self, vector: Vector, out: Vector, scale: float, *, part: Part) -> None:
        """Do ``out += scale * sum of what owners send``."""
        self._exchange(lambda stamp: self._encoder.encode(vector, stamp), out, scale, part)

    def add_difference(self, before: Vector, after: Vector, out: Vector, scale: float, *, part: Part) -> None:
        """Do ``out += scale * sum of what owners send``, where ranks send codes of ``before - after_r``."""
        self._exchange(lambda stamp: self._encoder.encode_difference(before, after, stamp), out, scale, part)

    def _exchange(self, encode: Callable[[Stamp], NDArray[np.uint8]], out: Vector, scale: float, part: Part) -> None:
        stamp = Stamp(run_id=self._run_id, rank=self._regions.rank, step=self._sent, examples=part.stamp)
        coded: list[NDArray[np.uint8]] = []
        joined: list[NDArray[np.uint8]] = []

        def code() -> list[NDArray[np.uint8]]:
            with self._phases.timed("encode"):
                coded.append(encode(stamp))
                return self._cutter.cut(coded[0])

        def join() -> NDArray[np.uint8]:
            with self._phases.timed("join"):
                joined.append(self._owner.join(self._read_parts(received, part), stamp))
                return np.concatenate([_tally(coded[0]), joined[0]])

        try:
            received = self._regions.swap(code, self._sent)
            messages = self._regions.gather(join, self._sent)
            with self._phases.timed("decode"):
                tallies, found = self._read(messages, scale)
                for span, each in zip(self._regions.spans, found, strict=True):
                    each.add_to(out[span], self._num_threads)
        except BaseException:
            self._undo(coded, joined)
            raise
        self._encoder.agree_on(tallies)
        pairs = zip(self._regions.spans, found, strict=True)
        self._let_through = np.concatenate([np.abs(each.codes(0)) + np.int32(span.start) for span, each in pairs])
        self._sent += 1
        self._density_sum += self._encoder.sent.size / self._encoder.n

    def _read_parts(self, messages: Sequence[NDArray[np.uint8]], part: Part) -> Decoded:
        """Make sure of all that ranks have sent to this owner."""
        own, num_threads = self._regions.own, self._num_threads
        found = read_messages(messages, own.stop - own.start, expected=self._expected(), num_threads=num_threads)
        check_counts(part, [each.header.examples for each in found.messages])
        return found

    def _read(self, messages: Sequence[NDArray[np.uint8]], scale: float) -> tuple[list[Groups], list[Decoded]]:
        """Make sure of all that owners have sent, before any of it is added."""
        tallies = [_read_tally(message) for message in messages]
        found = [
            read_messages([message[_TALLY.size :]], span.stop - span.start, scale, expected=[expected])
            for message, span, expected in zip(messages, self._regions.spans, self._expected(), strict=True)
        ]
        return tallies, found

    def _expected(self) -> list[Expected]:
        return [Expected(run_id=self._run_id, rank=rank, step=self._sent) for rank in self._regions.ranks]

    def _undo(self, coded: Sequence[NDArray[np.uint8]], joined: Sequence[NDArray[np.uint8]]) -> None:
        """Take back what nobody has applied."""
        for message in joined:
            self._owner.undo(message)
        for message in coded:
            self._encoder.put_back(message)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both encoders, and counts."""
        return {
            "encoder": with_tensor(self._encoder.state_dict()),
            "owner": with_tensor(self._owner.state_dict()),
            "sent": self._sent,
            "density_sum": self._density_sum,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        if set(state) != _KEYS:
            raise ConfigurationError(
                f'the state of exchange="regions" has the keys {sorted(_KEYS)}, not {sorted(state)}: is it of another?'
            )
        sent, density_sum = saved_count(state), float(state["density_sum"])
        own, owners = encoder_state(state["encoder"]), encoder_state(state["owner"])
        before = self._encoder.state_dict()
        self._encoder.load_state_dict(own)
        try:
            self._owner.load_state_dict(owners)
        except BaseException:
            self._encoder.load_state_dict(before)
            raise
        self._sent = sent
        self._density_sum = density_sum

    def measures(self) -> dict[str, float]:
        """Return mean density and last threshold of this rank's codes, and the clipped mass."""
        return {
            "density": self._density_sum / self._sent if self._sent else 0.0,
            "threshold": self._encoder.threshold or 0.0,
            "clipped_mass": self._encoder.clipped_mass,
        }


def _tally(message: Message) -> NDArray[np.uint8]:
    """Return what all ranks must hear of a rank's message, so that all go on from one threshold (docs/adr/0006)."""
    header = read_header(message)
    head = struct.pack("<Qf", header.count, header.threshold)
    return np.frombuffer(head + struct.pack("<I", zlib.crc32(head)), np.uint8)


def _read_tally(message: NDArray[np.uint8]) -> Groups:
    if message.size < _TALLY.size:
        raise MessageError(f"{message.size} bytes are no message of an owner")
    count, threshold, checksum = _TALLY.unpack_from(message.data)
    if zlib.crc32(message.data[: _TALLY.size - 4]) != checksum:
        raise MessageError("the checksum of a tally is wrong: bytes changed on the way")
    return Groups([count], [threshold], [0.0])
