"""Messages are added in order, with their scales, wherever they lie; what cannot be added leaves all as it was."""

import dataclasses

import numpy as np
import pytest

from hvdspark.codec import Encoder, Expected, FixedThresholdAlgorithm, Stamp, decode_into, read_header, read_messages
from hvdspark.errors import ConfigurationError, MessageError, NonFiniteError, UnsupportedError

N = 100
STAMP = Stamp(run_id=0xABCDEF, rank=3, step=11, examples=32)
FORMATS = ["sparse", "dense", "rice", "bitmap"]
CODED = ["sparse", "rice", "bitmap"]


def encoder(form="sparse", **options):
    algorithm = None if form == "dense" else FixedThresholdAlgorithm(0.5)
    return Encoder(N, threshold_algorithm=algorithm, format=form, **options)


def honest(form="sparse", **options):
    update = np.random.default_rng(1).standard_normal(N).astype(np.float32)
    return encoder(form, **options).encode(update, STAMP).copy()


def test_messages_are_added_in_the_order_of_the_list_with_their_scales():
    rng = np.random.default_rng(4)
    updates = [rng.standard_normal(N).astype(np.float32) for _ in range(3)]
    messages = [encoder(form).encode(u).copy() for form, u in zip(("rice", "dense", "sparse"), updates, strict=True)]
    start = rng.standard_normal(N).astype(np.float32)
    scales = [0.3, -1.0, 1 / 3]
    wanted = start.copy()
    for message, scale in zip(messages, scales, strict=True):
        decode_into([message], wanted, scale)
    out = start.copy()
    decode_into(messages, out, scales)
    assert out.tobytes() == wanted.tobytes()
    by_hand = start.copy()
    by_hand += np.where(np.abs(updates[0]) >= 0.5, np.sign(updates[0]), 0).astype(np.float32) * np.float32(0.3 * 0.5)
    by_hand += np.float32(-1.0) * updates[1]
    by_hand += np.where(np.abs(updates[2]) >= 0.5, np.sign(updates[2]), 0).astype(np.float32) * np.float32(0.5 / 3)
    assert out.tobytes() == by_hand.tobytes()


@pytest.mark.parametrize(
    ("form", "magnitude"), [(form, "threshold") for form in FORMATS] + [(form, "multiples") for form in CODED]
)
def test_messages_come_as_bytes_and_at_any_address(form, magnitude):
    message = honest(form, magnitude=magnitude)
    wanted = np.zeros(N, np.float32)
    decode_into([message], wanted)
    packed = np.zeros(message.size + 8, np.uint8)
    for shift in range(5):
        packed[shift : shift + message.size] = message
        askew = packed[shift : shift + message.size]
        for given in (askew, askew.tobytes(), bytearray(askew), memoryview(askew.tobytes())):
            out = np.zeros(N, np.float32)
            decode_into([given], out)
            assert out.tobytes() == wanted.tobytes()
    assert read_header(message.tobytes()) == read_header(message)


def test_one_expectation_a_message():
    messages = [
        encoder().encode(np.ones(N, np.float32), dataclasses.replace(STAMP, rank=rank)).copy() for rank in (0, 1)
    ]
    out = np.zeros(N, np.float32)
    decode_into(messages, out, expected=[Expected(rank=0), Expected(rank=1)])
    with pytest.raises(MessageError, match="message 0 of 2: rank 1"):
        decode_into(messages[::-1], out, expected=[Expected(rank=0), Expected(rank=1)])
    with pytest.raises(ConfigurationError, match="expected has 1 items for 2"):
        decode_into(messages, out, expected=[Expected()])
    with pytest.raises(ConfigurationError, match="scale has 3 items for 2"):
        decode_into(messages, out, [1.0, 2.0, 3.0])


def test_no_messages_change_nothing():
    out = np.ones(N, np.float32)
    decode_into([], out)
    assert (out == 1).all()


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), 1e39, 1e300])
def test_a_scale_that_float32_cannot_hold_is_refused(scale):
    out = np.ones(N, np.float32)
    for form in ("sparse", "dense"):
        with pytest.raises(NonFiniteError, match="message 0"):
            decode_into([honest(form)], out, scale)
    assert (out == 1).all()


def test_a_dense_value_that_the_scale_makes_infinite_is_refused():
    update = np.zeros(N, np.float32)
    update[[0, 7]] = 1.0, -3e38
    message = encoder("dense").encode(update)
    out = np.ones(N, np.float32)
    with pytest.raises(NonFiniteError, match="message 0"):
        decode_into([message], out, 2.0)
    assert (out == 1).all()


def test_an_out_that_cannot_take_it_is_refused():
    frozen = np.zeros(N, np.float32)
    frozen.flags.writeable = False
    for out in ([0.0] * N, np.zeros(N), np.zeros(2 * N, np.float32)[::2], frozen):
        with pytest.raises(UnsupportedError, match="out must be"):
            decode_into([honest()], out)
    with pytest.raises(ConfigurationError, match="flatten"):
        decode_into([honest()], np.zeros((N, 1), np.float32))
    with pytest.raises(MessageError, match="for 100 elements, 99 are held"):
        decode_into([honest()], np.zeros(N - 1, np.float32))


def test_what_messages_say_is_known_before_they_are_added():
    out = np.zeros(N, np.float32)
    decode_into([honest(), honest("rice")], out, 2.0)
    found = read_messages([honest(), honest("rice")], N, 2.0)
    assert [each.header for each in found.messages] == [read_header(honest()), read_header(honest("rice"))]
    later = np.zeros(N, np.float32)
    found.add_to(later)
    assert later.tobytes() == out.tobytes()
    assert out.any()
    alone = np.zeros(N, np.float32)
    decode_into([honest()], alone)
    assert (np.abs(found.codes(0)) - 1).tolist() == np.flatnonzero(alone).tolist()
    with pytest.raises(ConfigurationError, match=f"of {N} elements, out has {N + 1}"):
        found.add_to(np.zeros(N + 1, np.float32))
