"""Decoding: check every message, then add them all, in order."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hvdspark.codec import multiples
from hvdspark.codec.dense import DenseFormat
from hvdspark.codec.devices import target
from hvdspark.codec.message import DENSE, Checked, Expected, Message, check
from hvdspark.errors import ConfigurationError, MessageError, NonFiniteError
from hvdspark_kernels import threads

__all__ = ["Decoded", "decode_into", "read_messages"]

_Item = TypeVar("_Item")
_BYTES = 1 << 17  # of messages that are worth waking a thread for
_LARGEST = float(np.finfo(np.float32).max)


class Decoded:
    """Messages that were found good, with their codes; not added to anything yet.

    Parameters
    ----------
    messages
        Checked, in order.
    n
        Elements that they are of.
    scales
        The factor of each.
    codes
        ``[count] int32``: the codes of all messages, one after the other.
    starts
        Where the codes of each message begin in it, and where the last ones end.
    found
        ``[count] uint8``: the multiple of each code, where its message has any.
    """

    def __init__(
        self,
        messages: list[Checked],
        n: int,
        scales: list[float],
        codes: NDArray[np.int32],
        starts: list[int],
        found: NDArray[np.uint8],
    ) -> None:
        self.messages = messages
        self._n = n
        self._scales = scales
        self._codes = codes
        self._starts = starts
        self._found = found

    def codes(self, place: int) -> NDArray[np.int32]:
        """Return the codes of a message, ``[count] int32``; none of a dense one."""
        return self._codes[self._starts[place] : self._starts[place + 1]]

    def multiples(self, place: int) -> NDArray[np.uint8] | None:
        """Return the multiples of a message's codes, ``[count] uint8``; None where they have none."""
        if not self.messages[place].header.multiple_bits:
            return None
        return self._found[self._starts[place] : self._starts[place + 1]]

    def add_to(self, out: Any, num_threads: int | None = None) -> None:
        """Add all messages, in order: ``out += scale * message``.

        Parameters
        ----------
        out
            ``[n] float32`` on any device, of the length that the messages were read for.
        num_threads
            As in `decode_into`.

        Raises
        ------
        UnsupportedError, ConfigurationError
            If it is no such array.
        """
        add_codes, add_dense, n = target(out, num_threads)
        if n != self._n:
            raise ConfigurationError(f"the messages are of {self._n} elements, out has {n}")
        for first, last in _stretches(self.messages):
            start, stop = self._starts[first], self._starts[last]
            part = slice(start, stop)
            if isinstance(self.messages[first].form, DenseFormat):
                add_dense(self.messages[first].body, self._scales[first])
            elif start < stop:
                ends, values = _runs(self.messages[first:last], self._scales[first:last])
                begins = np.array(self._starts[first:last], np.int64) - start
                if self.messages[first].header.multiple_bits:
                    add_codes(self._codes[part], self._found[part], ends, multiples.values_of(values), begins)
                else:
                    add_codes(self._codes[part], None, ends, values.astype(np.float32), begins)


def decode_into(
    messages: Sequence[Message],
    out: NDArray[np.float32],
    scale: float | Sequence[float] = 1.0,
    *,
    expected: Expected | Sequence[Expected] | None = None,
    num_threads: int | None = None,
) -> None:
    """Add decoded messages to an array: ``out += scale * message``, in the order of the list.

    The same messages in the same order give the same bits on every rank.

    Parameters
    ----------
    messages
        As `hvdspark.codec.Encoder` wrote them, without padding.
    out
        ``[n] float32``, contiguous, changed in place, and only if all messages are good: a NumPy array, or an array on
        a CUDA device.
    scale
        One factor for all messages, or one for each.
    expected
        What is known of the messages: one for all, or one for each.
    num_threads
        The most threads to use; None: the CPUs this process may use, at most 8. The result does not depend on it.

    Raises
    ------
    MessageError
        If any byte of any message was changed, is missing or was added, or a message is not the expected one; `out` is
        as it was. The text says which message, counted from 0.
    NonFiniteError
        If a scale, or what it makes of a message, is no float32 number; `out` is as it was.
    """
    _, _, n = target(out, num_threads)
    read_messages(messages, n, scale, expected=expected, num_threads=num_threads).add_to(out, num_threads)


def read_messages(
    messages: Sequence[Message],
    n: int,
    scale: float | Sequence[float] = 1.0,
    *,
    expected: Expected | Sequence[Expected] | None = None,
    num_threads: int | None = None,
) -> Decoded:
    """Do all of `decode_into` but the adding, for those who want to know what the messages say before, or after.

    Parameters, and what is raised, are those of `decode_into`; `n` is the number of elements that messages must have.
    What is returned holds views of the messages.
    """
    scales = _one_each(scale, len(messages), "scale")
    hopes = _one_each(expected, len(messages), "expected")
    parts = _parts(messages, num_threads)

    def check_some(first: int, last: int) -> list[Checked]:
        return [_check(messages, place, n, scales[place], hopes[place]) for place in range(first, last)]

    checked = list(itertools.chain.from_iterable(threads.run(check_some, parts)))
    codes, starts = _read_codes(checked, parts, num_threads)
    return Decoded(checked, n, scales, codes, starts, _read_multiples(checked, starts, scales))


def _parts(messages: Sequence[Message], num_threads: int | None) -> list[tuple[int, int]]:
    """Cut the messages among threads, if there is work for them."""
    total = sum(message.size if isinstance(message, np.ndarray) else len(message) for message in messages)
    return threads.ranges(len(messages), num_threads, 1, least=len(messages) * _BYTES // max(total, 1) + 1)


def _check(messages: Sequence[Message], place: int, n: int, scale: float, expected: Expected | None) -> Checked:
    """Check a message, but for its codes, and what its scale makes of it."""
    try:
        found = check(messages[place], n, expected)
    except MessageError as error:
        raise _named(error, place, len(messages)) from None
    is_dense = isinstance(found.form, DenseFormat)
    _check_scale(scale, DENSE.largest(found.body) if is_dense else max(found.groups.magnitudes), place)
    return found


def _check_scale(scale: float, largest: float, place: int) -> None:
    if not _is_float32(scale * max(1.0, largest)):
        raise NonFiniteError(f"scale {scale} times magnitude {largest} of message {place} is no float32 number")


def _read_codes(
    checked: list[Checked], parts: list[tuple[int, int]], num_threads: int | None
) -> tuple[NDArray[np.int32], list[int]]:
    """Read the codes of all messages, one after the other; return them and where each message's begin."""
    counts = [0 if each.form is DENSE else each.header.count for each in checked]
    starts = [0, *itertools.accumulate(counts)]
    codes = np.empty(starts[-1], np.int32)
    inside = num_threads if len(parts) == 1 else 1

    def read_some(first: int, last: int) -> None:
        for place in range(first, last):
            part = codes[starts[place] : starts[place + 1]]
            good = _read(checked[place], part, inside)
            if good < part.size:
                header = checked[place].header
                problem = f"code {good} of {part.size} is wrong: indices must rise strictly from 1 to {header.n}"
                raise _named(header.error(problem), place, len(checked))

    threads.run(read_some, parts)
    return codes, starts


def _read_multiples(checked: list[Checked], starts: list[int], scales: list[float]) -> NDArray[np.uint8]:
    """Read the multiples of all messages where their codes are; check what they and the scale make of a magnitude."""
    if not any([each.header.multiple_bits for each in checked]):  # noqa: C419  # a generator takes twice as long
        return np.empty(0, np.uint8)
    found = np.empty(starts[-1], np.uint8)
    for place, (each, scale) in enumerate(zip(checked, scales, strict=True)):
        if each.header.multiple_bits:
            part = found[starts[place] : starts[place + 1]]
            multiples.read(each.multiples, part)
            largest = multiples.largest(each.groups, part)
            if not _is_float32(largest):
                problem = f"a multiple of the magnitude is {largest}, no float32 number"
                raise _named(each.header.error(problem), place, len(checked))
            _check_scale(scale, largest, place)
    return found


def _read(message: Checked, codes: NDArray[np.int32], num_threads: int | None) -> int:
    """Read the codes of a message; return how many are good."""
    form = message.form
    if isinstance(form, DenseFormat) or not message.body.size:
        return 0
    return form.read(message.body, message.header.n, message.plan, codes, num_threads)


def _stretches(checked: list[Checked]) -> Iterator[tuple[int, int]]:
    """Cut the messages, in order, into single dense ones and stretches of coded ones, which are added in one pass.

    Those with multiples and those without are stretches of their own.
    """
    first, last_kind = 0, None
    for place, each in enumerate(checked):
        kind = place if each.form is DENSE else -1 - each.header.multiple_bits
        if kind != last_kind and place:
            yield first, place
            first = place
        last_kind = kind
    if checked:
        yield first, len(checked)


def _runs(checked: list[Checked], scales: list[float]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return where the codes of each group of each message end, and what they are worth: not rounded to float32 yet."""
    pairs = zip(checked, scales, strict=True)
    values = [magnitude * scale for each, scale in pairs for magnitude in each.groups.magnitudes]
    counts = [count for each in checked for count in each.groups.counts]
    return np.array(list(itertools.accumulate(counts)), np.int64), np.array(values, np.float64)


def _named(error: MessageError, place: int, num_messages: int) -> MessageError:
    """Say which message an error is about."""
    return MessageError(f"message {place} of {num_messages}: {error}")


def _one_each(given: _Item | Sequence[_Item], num_messages: int, name: str) -> list[_Item]:
    """Return one item a message."""
    if not isinstance(given, (list, np.ndarray, Sequence)):  # the last takes longer to tell than the others together
        return [given] * num_messages
    if len(given) != num_messages:
        raise ConfigurationError(f"{name} has {len(given)} items for {num_messages} messages")
    return list(given)


def _is_float32(value: float) -> bool:
    return math.isfinite(value) and abs(value) <= _LARGEST
