"""Decoding: check every message, then add them all, in order."""

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from hvdspark.codec.message import Expected, Message, check
from hvdspark.codec.source import check_array
from hvdspark.errors import ConfigurationError, MessageError, NonFiniteError, UnsupportedError

__all__ = ["decode_into"]

_Item = TypeVar("_Item")
_LARGEST = float(np.finfo(np.float32).max)


def decode_into(
    messages: Sequence[Message],
    out: NDArray[np.float32],
    scale: float | Sequence[float] = 1.0,
    *,
    expected: Expected | Sequence[Expected] | None = None,
) -> None:
    """Add decoded messages to an array: ``out += scale * message``, in the order of the list.

    The same messages in the same order give the same bits on every rank.

    Parameters
    ----------
    messages
        As `hvdspark.codec.Encoder` wrote them, without padding.
    out
        ``[n] float32``, contiguous, changed in place, and only if all messages are good.
    scale
        One factor for all messages, or one for each.
    expected
        What is known of the messages: one for all, or one for each.

    Raises
    ------
    MessageError
        If any byte of any message was changed, is missing or was added, or a message is not the expected one; `out` is
        as it was. The text says which message, counted from 0.
    """
    if not isinstance(out, np.ndarray):
        raise UnsupportedError(f"out must be a NumPy array, not a {type(out).__name__}")
    check_array(out, "out", out.size)
    if not out.flags.writeable:
        raise UnsupportedError("out must be writable")
    scales = _one_each(scale, len(messages), "scale")
    hopes = _one_each(expected, len(messages), "expected")
    checked = []
    for place, (message, factor, hope) in enumerate(zip(messages, scales, hopes, strict=True)):
        try:
            header, form, payload = check(message, out.size, hope)
        except MessageError as error:
            raise MessageError(f"message {place} of {len(messages)}: {error}") from None
        if not _is_float32(factor) or not _is_float32(factor * header.tau):
            raise NonFiniteError(f"scale {factor} times threshold {header.tau} of message {place} is no float32 number")
        checked.append((form, payload, header.tau, factor))
    for form, payload, tau, factor in checked:
        form.add(payload, tau, factor, out)


def _one_each(given: _Item | Sequence[_Item], num_messages: int, name: str) -> list[_Item]:
    """Return one item a message."""
    if not isinstance(given, Sequence | np.ndarray):
        return [given] * num_messages
    if len(given) != num_messages:
        raise ConfigurationError(f"{name} has {len(given)} items for {num_messages} messages")
    return list(given)


def _is_float32(value: float) -> bool:
    return math.isfinite(value) and abs(value) <= _LARGEST
