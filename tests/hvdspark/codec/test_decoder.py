"""Nothing that was not sent to us gets through: mutations, hand-made evil messages, wrong origins."""

import os
import struct
import zlib

import numpy as np
import pytest

from hvdspark.codec import Encoder, Expected, FixedThresholdAlgorithm, Stamp, decode_into, read_header
from hvdspark.errors import MessageError

N = 100
LAYOUT = "<4sHBBQQIIIfQIfI"
STAMP = Stamp(run_id=0xABCDEF, rank=3, step=11, examples=32)
EXPECTED = Expected(run_id=0xABCDEF, rank=3, step=11)
SPARSE, DENSE, RICE, BITMAP = 1, 2, 3, 4
FORMATS = ["sparse", "dense", "rice", "bitmap"]
CODED = ["sparse", "rice", "bitmap"]


def encoder(form="sparse", **options):
    algorithm = None if form == "dense" else FixedThresholdAlgorithm(0.5)
    return Encoder(N, threshold_algorithm=algorithm, format=form, **options)


def multiplied(multiples=(1, 8, 3), packed=None, kind=SPARSE, **fields):
    """Codes with multiples of three bits."""
    bits = sum((multiple - 1) << 3 * place for place, multiple in enumerate(multiples))
    packed = bits.to_bytes(-(-3 * len(multiples) // 8), "little") if packed is None else packed
    codes = np.array([1, -7, 100], "<i4").tobytes()
    return {"format": kind | 3 << 4, "count": 3, "payload": codes + packed} | fields


def honest(form="sparse", **options):
    update = np.random.default_rng(1).standard_normal(N).astype(np.float32)
    return encoder(form, **options).encode(update, STAMP).copy()


def forged(payload=None, extra=b"", codes=(1, -7, 100), bits=None, **fields):
    """Pack a message from scratch, with a right checksum: what only the other checks can catch."""
    payload = np.array(codes, "<i4").tobytes() if payload is None else payload
    header = {
        "magic": b"HVDS", "version": 2, "format": SPARSE, "parameter": 0, "run_id": STAMP.run_id, "step": STAMP.step,
        "n": N, "count": len(payload) // 4, "groups": 1, "threshold": 0.625, "payload_bytes": len(payload),
        "rank": STAMP.rank, "magnitude": 0.5, "examples": 32,
    }  # fmt: skip
    assert set(fields) <= set(header)
    head = struct.pack(LAYOUT, *(header | fields).values())
    if bits is not None:  # the magnitude as raw bits: a NaN with a payload, a denormal number
        head = head[:52] + struct.pack("<I", bits) + head[56:]
    data = head + struct.pack("<I", zlib.crc32(payload, zlib.crc32(head))) + payload + extra
    return np.frombuffer(data, np.uint8).copy()


def dense(**changes):
    values = np.ones(N, "<f4")
    for place, value in changes.items():
        values[int(place[1:])] = value
    return {"payload": values.tobytes(), "format": DENSE, "threshold": 0.0, "magnitude": 0.0}


def grouped(counts=(1, 2), thresholds=(0.5, 1.0), magnitudes=(0.5, 1.0), codes=(1, -7, 100), padding=b"", **fields):
    """Two groups with a threshold each."""
    table = np.array(counts, "<u4").tobytes() + np.array([*thresholds, *magnitudes], "<f4").tobytes() + padding
    payload = table + np.array(codes, "<i4").tobytes()
    header = {"groups": len(counts), "count": len(codes), "threshold": 0.0, "magnitude": 0.0, "payload": payload}
    return header | fields


EVIL = {
    "index 0": {"codes": [0, 1, 2]},
    "index 0 at the end": {"codes": [1, 2, 0]},
    "index n + 1": {"codes": [1, N + 1]},
    "index -(n + 1)": {"codes": [1, -(N + 1)]},
    "index 2**31 - 1": {"codes": [2**31 - 1]},
    "index -2**31": {"codes": [-(2**31)]},
    "index -2**31 after others": {"codes": [1, 2, -(2**31)]},
    "duplicate": {"codes": [5, 5]},
    "duplicate of the other sign": {"codes": [5, -5]},
    "unsorted": {"codes": [9, 3]},
    "unsorted at the end": {"codes": [*range(1, 50), 48]},
    "count 2**32 - 1": {"count": 2**32 - 1},
    "count one more": {"count": 4},
    "count one less": {"count": 2},
    "count 0 with a payload": {"count": 0},
    "count n + 1 with as many codes": {"codes": range(1, N + 2)},
    "payload that ends inside a code": {"payload": b"\1\0\0\0\2\0", "count": 1},
    "announced payload too long": {"payload_bytes": 16},
    "announced payload too short": {"payload_bytes": 8},
    "announced payload 2**64 - 1": {"payload_bytes": 2**64 - 1},
    "one byte behind the end": {"extra": b"\0"},
    "padding behind the end": {"extra": bytes(64)},
    "a second message behind the end": {"extra": forged().tobytes()},
    "threshold NaN": {"threshold": float("nan")},
    "threshold 0 with codes": {"threshold": 0.0},
    "threshold -1": {"threshold": -1.0},
    "threshold inf": {"threshold": float("inf")},
    "magnitude NaN": {"magnitude": float("nan")},
    "magnitude NaN with a payload": {"bits": 0x7FC0BEEF},
    "magnitude 0": {"magnitude": 0.0},
    "magnitude -0": {"magnitude": -0.0},
    "magnitude -1": {"magnitude": -1.0},
    "magnitude inf": {"magnitude": float("inf")},
    "magnitude -inf": {"magnitude": float("-inf")},
    "magnitude denormal": {"bits": 0x00010000},
    "magnitude below the floor": {"bits": 0x2B000000},
    "magnitude with more digits than bfloat16": {"bits": 0x3F000001},
    "no groups": {"groups": 0},
    "2**32 - 1 groups": {"groups": 2**32 - 1},
    "two groups and no table": {"groups": 2},
    "groups with other counts": grouped(counts=(1, 1)),
    "groups whose counts wrap": grouped(counts=(4, 2**32 - 1)),
    "groups with a magnitude NaN": grouped(magnitudes=(0.5, float("nan"))),
    "groups with a magnitude 0": grouped(magnitudes=(0.5, 0.0)),
    "groups without codes, with a magnitude": grouped(counts=(2, 0), magnitudes=(0.5, 0.5)),
    "groups without codes, with a magnitude -0": grouped(counts=(2, 0), magnitudes=(0.5, -0.0)),
    "groups without codes, with a threshold -0": grouped(counts=(2, 0), thresholds=(0.5, -0.0), magnitudes=(0.5, 0.0)),
    "groups and a magnitude -0 in the header": grouped(magnitude=-0.0),
    "groups with a threshold -1": grouped(thresholds=(0.5, -1.0)),
    "groups with a table that is not filled up": grouped(counts=(1, 1, 1), thresholds=(1, 1, 1), magnitudes=(1, 1, 1))
    | {"payload": np.array([1, 1, 1], "<u4").tobytes() + np.ones(6, "<f4").tobytes() + b"\1\0\0\0" + bytes(12)},
    "groups and a magnitude in the header": grouped(magnitude=0.5),
    "groups and a threshold in the header": grouped(threshold=0.5),
    "multiples that are missing": multiplied(packed=b""),
    "multiples, one byte short": multiplied(packed=b"\x70"),
    "multiples, one byte more": multiplied(packed=b"\x70\0\0"),
    "multiples with a bit behind the last": multiplied(packed=b"\xb8\x02"),
    "multiples with the last bit set": multiplied(packed=b"\xb8\x80"),
    "multiples of one bit": {"format": SPARSE | 1 << 4},
    "multiples of two bits": {"format": SPARSE | 2 << 4},
    "multiples of four bits": {"format": SPARSE | 4 << 4, "payload": bytes([1, 0, 0, 0, 9, 0, 0, 0, 0]), "count": 2},
    "multiples of eleven bits": {"format": SPARSE | 11 << 4},
    "multiples of fifteen bits": {"format": SPARSE | 15 << 4},
    "multiples of three bits that nobody sent": {"format": SPARSE | 3 << 4},
    "multiples of three bits of an unknown format": {"format": 5 | 3 << 4},
    "multiples of format 0": multiplied(kind=0),
    "multiples that nobody announced": multiplied() | {"format": SPARSE},
    "multiples and count 2**32 - 1": multiplied(count=2**32 - 1),
    "multiples and count one more": multiplied(count=4),
    "multiples and count 0": multiplied(count=0),
    "multiples of sparse codes called Rice": multiplied(kind=RICE),
    "multiples of sparse codes called a bitmap": multiplied(kind=BITMAP),
    "multiples of a magnitude that float32 cannot hold": multiplied(bits=0x7F000000),
    "multiples of dense values": dense() | {"format": DENSE | 3 << 4},
    "multiples of dense values, with bytes for them": dense()
    | {"format": DENSE | 3 << 4, "payload": np.ones(N, "<f4").tobytes() + bytes(38), "count": N},
    "another run": {"run_id": 1},
    "another rank": {"rank": 2},
    "an earlier step (a replay)": {"step": 10},
    "a later step": {"step": 12},
    "n one more": {"n": N + 1},
    "n 0": {"n": 0},
    "n 2**32 - 1": {"n": 2**32 - 1},
    "another magic": {"magic": b"HVDT"},
    "version 0": {"version": 0},
    "version 1": {"version": 1},
    "a later version": {"version": 3},
    "an unknown format": {"format": 200},
    "format 0": {"format": 0},
    "a parameter where none is": {"parameter": 1},
    "sparse codes called Rice": {"format": RICE},
    "sparse codes called a bitmap": {"format": BITMAP},
    "Rice with parameter 31": {"format": RICE, "parameter": 31, "payload": bytes(16), "count": 3},
    "Rice with parameter 255": {"format": RICE, "parameter": 255, "payload": bytes(16), "count": 3},
    "Rice with 2**30 codes in 16 bytes": {"format": RICE, "parameter": 3, "payload": bytes(16), "count": N},
    "Rice of nothing but ones": {"format": RICE, "payload": b"\xff" * 16, "count": 3},
    "Rice with no bytes": {"format": RICE, "payload": b"", "count": 1},
    "bitmap of 255": {"format": BITMAP, "payload": b"\xff" * 20, "count": N},
    "bitmap of zeros with a count": {"format": BITMAP, "payload": bytes(20), "count": 3},
    "bitmap, one byte short": {"format": BITMAP, "payload": bytes(19), "count": 0},
    "sparse codes called dense": {"format": DENSE},
    "dense values called sparse": dense() | {"format": SPARSE},
    "dense with a NaN": dense(i7=float("nan")),
    "dense with inf": dense(i99=float("inf")),
    "dense with count 3": dense() | {"count": 3},
    "dense, one value short": {"format": DENSE, "payload": bytes(4 * N - 4), "count": N},
    "dense with a threshold": dense() | {"threshold": 1.0},
    "dense with a magnitude": dense() | {"magnitude": 1.0},
    "dense with groups": dense() | {"groups": 2},
    "dense with a parameter": dense() | {"parameter": 1},
}


def refused(messages, match=None):
    out = np.linspace(-1, 1, N, dtype=np.float32)
    before = out.tobytes()
    with pytest.raises(MessageError, match=match):
        decode_into(messages, out, 0.5, expected=EXPECTED)
    assert out.tobytes() == before


def test_the_forger_can_write_honest_messages():
    out = np.zeros(N, np.float32)
    decode_into([forged(), forged(**dense())], out, expected=EXPECTED)
    assert (out[0], out[6], out[99], out[1]) == (1.5, 0.5, 1.5, 1.0)
    decode_into([forged(**grouped())], out, expected=EXPECTED)
    assert (out[0], out[6], out[99], out[1]) == (2.0, -0.5, 2.5, 1.0)
    decode_into([forged(**multiplied())], out, expected=EXPECTED)
    assert (out[0], out[6], out[99], out[1]) == (2.5, -4.5, 4.0, 1.0)
    decode_into([forged(**multiplied((1, 1, 1), bits=0x7F000000))], out, expected=EXPECTED)
    assert (out[0], out[6], out[1]) == (2.0**127, -(2.0**127), 1.0)


@pytest.mark.parametrize("evil", EVIL.values(), ids=EVIL)
def test_evil_messages_are_refused(evil):
    refused([honest(), forged(**evil)], match="message 1 of 2")


@pytest.mark.parametrize("length", [0, 1, 32, 63])
def test_less_than_a_header_is_refused(length):
    refused([honest()[:length]])
    with pytest.raises(MessageError, match=f"{length} bytes"):
        read_header(honest()[:length])


@pytest.mark.parametrize(
    "thing",
    [np.zeros(64, np.int8), np.zeros((2, 64), np.uint8), np.zeros(200, np.uint8)[::2], np.zeros(64, np.float32)],
)
def test_other_arrays_are_no_messages(thing):
    refused([thing], match="contiguous 1-D uint8")


def test_a_cap_on_the_count():
    out = np.zeros(N, np.float32)
    decode_into([forged()], out, expected=Expected(max_count=3))
    decode_into([forged(**dense())], out, expected=Expected(max_count=2))  # a dense message always carries all
    with pytest.raises(MessageError, match="at most 2"):
        decode_into([forged()], out, expected=Expected(max_count=2))


def mutations(rng, message, number):
    """Change, cut, add, swap and splice bytes; half of them with the checksum made right again."""
    for case in range(number):
        changed = message.copy()
        kind = case % 5
        if kind == 0:
            changed[rng.integers(changed.size)] ^= 1 << rng.integers(8)
        elif kind == 1:
            changed = changed[: rng.integers(changed.size)]
        elif kind == 2:
            changed = np.insert(changed, rng.integers(changed.size + 1), rng.integers(256)).astype(np.uint8)
        elif kind == 3:
            start = rng.integers(changed.size)
            changed[start : start + 8] = rng.integers(0, 256, changed[start : start + 8].size)
        else:
            one, other = rng.integers(0, changed.size - 4, 2)
            changed[one : one + 4], changed[other : other + 4] = message[other : other + 4], message[one : one + 4]
        if changed.tobytes() != message.tobytes():
            yield changed


#: Of each of the seven forms; 1,000,000 of each take a quarter of an hour.
MUTATIONS = int(os.environ.get("MUTATIONS", "150_000"))


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("form", "magnitude"), [(form, "threshold") for form in FORMATS] + [(form, "multiples") for form in CODED]
)
def test_a_million_mutations_are_refused(form, magnitude):
    """A million over all forms. Half of them have a right checksum: what then passes is a well-formed message.

    It stays inside of `out`.
    """
    message = honest(form, magnitude=magnitude)
    guarded = np.zeros(N + 200, np.float32)
    out = guarded[100:-100]
    before = out.tobytes()
    tried = passed = 0
    for case, changed in enumerate(mutations(np.random.default_rng(2), message, MUTATIONS + MUTATIONS // 50)):
        repaired = case % 2 and changed.size >= 64
        if repaired:
            right = zlib.crc32(changed[64:], zlib.crc32(changed[:60]))
            changed[60:64] = np.frombuffer(struct.pack("<I", right), np.uint8)
        tried += 1
        try:
            decode_into([changed], out)
        except MessageError:
            assert out.tobytes() == before
            continue
        passed += 1
        assert repaired or changed.tobytes() == message.tobytes()
        assert np.isfinite(out).all()
        out.fill(0.0)
    assert tried >= MUTATIONS
    assert passed > 100
    assert not guarded[:100].any()
    assert not guarded[-100:].any()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    "options",
    [{}, {"magnitude": "mean", "group_ends": [30, 31, N]}, {"magnitude": "multiples", "group_ends": [30, 31, N]}],
    ids=["one", "groups", "multiples"],
)
def test_mutations_are_refused(form, options):
    """A few thousand of the same, with groups too."""
    message = honest(form, **({} if form == "dense" else options))
    out = np.linspace(-1, 1, N, dtype=np.float32)
    before = out.tobytes()
    for changed in mutations(np.random.default_rng(3), message, 3_000):
        with pytest.raises(MessageError):
            decode_into([changed], out)
    assert out.tobytes() == before
