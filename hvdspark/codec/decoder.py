"""Decoding: check every message, then add them all, in order."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hvdspark.codec import multiples
from hvdspark.codec.dense import DenseFormat
from hvdspark.codec.devices import target
from hvdspark.codec.format import Format, Plan
from hvdspark.codec.message import Checked, Expected, Message, check
from hvdspark.errors import ConfigurationError, MessageError, NonFiniteError
from hvdspark_kernels import threads

__all__ = ["decode_into", "read_codes"]

_Item = TypeVar("_Item")
_BYTES = 1 << 17  # of messages that are worth waking a thread for
_LARGEST = float(np.finfo(np.float32).max)


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
    add_codes, add_dense, n = target(out, num_threads)
    scales = _one_each(scale, len(messages), "scale")
    hopes = _one_each(expected, len(messages), "expected")
    parts = _parts(messages, num_threads)

    def check_some(first: int, last: int) -> list[Checked]:
        return [_check(messages, place, n, scales[place], hopes[place]) for place in range(first, last)]

    checked = [each for some in threads.run(check_some, parts) for each in some]
    codes, starts = _read_codes(checked, parts, num_threads)
    found = _read_multiples(checked, starts, scales)
    for first, last in _stretches(checked):
        if isinstance(checked[first].form, DenseFormat):
            add_dense(checked[first].body, scales[first])
        else:
            ends, values = _runs(checked[first:last], scales[first:last])
            begins = np.array(starts[first:last], np.int64) - starts[first]
            part = slice(starts[first], starts[last])
            if checked[first].header.multiple_bits:
                add_codes(codes[part], found[part], ends, multiples.values_of(values), begins)
            else:
                add_codes(codes[part], None, ends, values.astype(np.float32), begins)


def read_codes(message: Message, n: int) -> NDArray[np.int32]:
    """Read the codes of a message: what was sent of `n` elements.

    Returns
    -------
    ``[count] int32``
        Signed one-based indices, rising in magnitude; none of a dense message, which has no codes.

    Raises
    ------
    MessageError
        As `decode_into`.
    """
    checked = [check(message, n)]
    codes, starts = _read_codes(checked, [(0, 1)], 1)
    _read_multiples(checked, starts, [1.0])
    return codes


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
    if isinstance(found.form, DenseFormat):
        largest = found.form.largest(found.body)
    else:
        largest = max(found.groups.magnitudes.tolist())
    _check_scale(scale, largest, place)
    return found


def _check_scale(scale: float, largest: float, place: int) -> None:
    if not _is_float32(scale * max(1.0, largest)):
        raise NonFiniteError(f"scale {scale} times magnitude {largest} of message {place} is no float32 number")


def _read_codes(
    checked: list[Checked], parts: list[tuple[int, int]], num_threads: int | None
) -> tuple[NDArray[np.int32], list[int]]:
    """Read the codes of all messages, one after the other; return them and where each message's begin."""
    counts = [each.header.count if isinstance(each.form, Format) else 0 for each in checked]
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
    if not any(each.header.multiple_bits for each in checked):
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
    header, form = message.header, message.form
    if not isinstance(form, Format):
        return 0
    return form.read(message.body, header.n, Plan(message.body.size, header.parameter), codes, num_threads)


def _stretches(checked: list[Checked]) -> Iterator[tuple[int, int]]:
    """Cut the messages, in order, into single dense ones and stretches of coded ones, which are added in one pass.

    Those with multiples and those without are stretches of their own.
    """

    def kind(place: int) -> int:
        return place if isinstance(checked[place].form, DenseFormat) else -1 - checked[place].header.multiple_bits

    for _, places in itertools.groupby(range(len(checked)), kind):
        first, *others = places
        yield first, first + len(others) + 1


def _runs(checked: list[Checked], scales: list[float]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return where the codes of each group of each message end, and what they are worth: not rounded to float32 yet."""
    ends = np.cumsum(np.concatenate([each.groups.counts for each in checked]))
    pairs = zip(checked, scales, strict=True)
    values = np.concatenate([each.groups.magnitudes.astype(np.float64) * scale for each, scale in pairs])
    return ends, values


def _named(error: MessageError, place: int, num_messages: int) -> MessageError:
    """Say which message an error is about."""
    return MessageError(f"message {place} of {num_messages}: {error}")


def _one_each(given: _Item | Sequence[_Item], num_messages: int, name: str) -> list[_Item]:
    """Return one item a message."""
    if not isinstance(given, Sequence | np.ndarray):
        return [given] * num_messages
    if len(given) != num_messages:
        raise ConfigurationError(f"{name} has {len(given)} items for {num_messages} messages")
    return list(given)


def _is_float32(value: float) -> bool:
    return math.isfinite(value) and abs(value) <= _LARGEST
