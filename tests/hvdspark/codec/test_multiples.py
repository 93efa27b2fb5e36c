"""``magnitude="multiples"`` through the public surface: what a code carries, what it costs, that nothing is lost."""

import numpy as np
import pytest

from hvdspark.codec import (
    Encoder,
    Expected,
    FixedThresholdAlgorithm,
    ResidualClippingPostProcessor,
    TargetSparsityThresholdAlgorithm,
    decode_into,
    read_header,
    read_messages,
)
from hvdspark.codec.tau import MAX_TAU, MIN_TAU
from hvdspark.errors import MessageError, NonFiniteError

HALF = FixedThresholdAlgorithm(0.5)
CODED = ["sparse", "rice", "bitmap"]
LARGEST = float(np.finfo(np.float32).max)


def multiplier(n, form="auto", algorithm=HALF, **options):
    return Encoder(n, threshold_algorithm=algorithm, format=form, magnitude="multiples", **options)


def decoded(messages, n, scale=1.0):
    out = np.zeros(n, np.float32)
    decode_into(messages, out, scale)
    return out


def test_a_message_by_hand():
    encoder = multiplier(6, "sparse")
    update = np.array([0.5, -1.25, 0.25, 9.0, -4.0, 3.75], np.float32)
    message = encoder.encode(update)
    header = read_header(message)
    assert (header.format, header.multiple_bits, header.magnitude, header.count) == (1, 3, 0.5, 5)
    assert message[6] == 0x31
    assert message[64:84].view("<i4").tolist() == [1, -2, 4, -5, 6]
    packed = 0 | 1 << 3 | 7 << 6 | 7 << 9 | 6 << 12  # 1, 2, 8, 8 and 7 halves
    assert message[84:].tobytes() == packed.to_bytes(2, "little")
    assert encoder.residual.tolist() == [0.0, -0.25, 0.25, 5.0, 0.0, 0.25]
    assert decoded([message], 6).tolist() == [0.5, -1.0, 0, 4.0, -4.0, 3.5]
    assert read_messages([message], 6).codes(0).tolist() == encoder.sent.tolist() == [1, -2, 4, -5, 6]


def draw(rng, n):
    """Sums of a few ranks' codes: small multiples of a threshold; beside them what is left of others, and outliers."""
    update = 0.25 * rng.integers(-6, 7, n) * (rng.random(n) < 0.3) + rng.standard_normal(n) * 0.1
    return np.where(rng.random(n) < 0.01, rng.standard_cauchy(n) * 10, update).astype(np.float32)


@pytest.mark.parametrize("form", ["auto", *CODED])
@pytest.mark.parametrize("ends", [None, [300, 300, 700, 1000]], ids=["one", "groups"])
def test_all_that_is_sent_is_an_exact_multiple_and_keeps_its_sign(form, ends):
    n, rng = 1000, np.random.default_rng(1)
    algorithm = TargetSparsityThresholdAlgorithm(sparsity_target=0.05)
    encoder = multiplier(n, form, algorithm, group_ends=ends)
    groups = np.repeat(np.arange(len(ends or [n])), np.diff(ends or [n], prepend=0))
    for _ in range(20):
        update = draw(rng, n)
        total = encoder.residual + update
        message = encoder.encode(update)
        sent = decoded([message], n)
        assert np.array_equal(sent.astype(np.float64) + encoder.residual, total.astype(np.float64))
        assert not (np.sign(encoder.residual) * np.sign(total) < 0).any()
        taus = np.array([tau or 1.0 for tau in encoder.thresholds])[groups]
        assert np.array_equal(np.abs(sent), taus * np.clip(np.abs(total) // taus, 0, 8))
        assert np.array_equal(np.flatnonzero(sent) + 1, np.abs(read_messages([message], n).codes(0)))


def test_all_formats_say_the_same_and_each_costs_three_bits_a_code():
    n, rng = 5000, np.random.default_rng(2)
    for update in (draw(rng, n), np.zeros(n, np.float32), 100 * np.ones(n, np.float32)):
        found, sizes = set(), {}
        for form in ("auto", *CODED):
            message = multiplier(n, form).encode(update)
            found.add(decoded([message], n).tobytes())
            plain = Encoder(n, threshold_algorithm=HALF, format=form).encode(update)
            count = read_header(plain).count
            assert message.size == plain.size + -(-3 * count // 8)
            sizes[form] = message.size
        assert len(found) == 1
        assert sizes.pop("auto") == min(sizes.values())


def test_messages_without_multiples_have_no_byte_of_them():
    update = draw(np.random.default_rng(3), 1000)
    for magnitude in ("threshold", "mean"):
        message = Encoder(1000, threshold_algorithm=HALF, magnitude=magnitude, format="sparse").encode(update)
        header = read_header(message)
        assert (header.multiple_bits, message[6], message.size) == (0, 1, 64 + 4 * header.count)


def test_what_was_sent_is_fit_for_far_larger_sums_than_one_threshold():
    """The reason for it: the sum of eight ranks' codes is through after one message, not after eight."""
    n, rng = 2000, np.random.default_rng(4)
    summed = 0.5 * rng.integers(-8, 9, n).astype(np.float32)
    several, one = multiplier(n), Encoder(n, threshold_algorithm=HALF)
    several.encode(summed)
    one.encode(summed)
    assert not several.residual.any()
    assert np.abs(one.residual).max() == 3.5


@pytest.mark.parametrize("tau", [MIN_TAU, 1e-3, MAX_TAU / 8, MAX_TAU])
def test_thresholds_at_both_ends_of_their_range(tau):
    """An element far above loses one rounding at most; one near float32's end never stands for more than it is."""
    multiples = np.array([1, -1.5, 7.999, -8, 0])
    update = np.append((multiples * tau).clip(-LARGEST, LARGEST), [LARGEST, -LARGEST]).astype(np.float32)
    for form in CODED:
        encoder = multiplier(7, form, FixedThresholdAlgorithm(tau))
        sent = decoded([encoder.encode(update)], 7)
        assert np.isfinite(sent).all()
        assert (np.abs(sent) <= np.abs(update)).all()
        missing = np.abs(sent.astype(np.float64) + encoder.residual - update)
        assert (missing <= 2.0**-24 * np.abs(update).astype(np.float64)).all()


def test_messages_with_and_without_multiples_are_added_in_their_order():
    n, rng = 1000, np.random.default_rng(5)
    makers = [
        multiplier(n, "rice", group_ends=[400, n]),
        Encoder(n, threshold_algorithm=HALF),
        multiplier(n, "bitmap"),
        multiplier(n, "sparse"),
        Encoder(n, format="dense"),
        multiplier(n),
    ]
    messages = [encoder.encode(draw(rng, n)).copy() for encoder in makers]
    scales = [1 / 3, -0.7, 1e-3, 2.0, 1.0, -1.0]
    start = rng.standard_normal(n).astype(np.float32)
    wanted, by_hand = start.copy(), start.copy()
    for message, scale in zip(messages, scales, strict=True):
        decode_into([message], wanted, scale)
        values = decoded([message], n).astype(np.float64)
        dense = read_header(message).format == 2
        by_hand += np.float32(scale) * values.astype(np.float32) if dense else (values * scale).astype(np.float32)
    for num_threads in (1, 2):
        out = start.copy()
        decode_into(messages, out, scales, num_threads=num_threads)
        assert out.tobytes() == wanted.tobytes()
    np.testing.assert_allclose(wanted, by_hand, rtol=0, atol=1e-4)


def test_decoding_does_not_depend_on_threads():
    n = 400_000
    update = np.random.default_rng(6).standard_normal(n).astype(np.float32)
    messages = [multiplier(n, form).encode(np.roll(update, place)).copy() for place, form in enumerate(CODED)]
    found = set()
    for num_threads in (1, 2, 3):
        out = update.copy()
        decode_into(messages, out, 1 / 3, num_threads=num_threads)
        found.add(out.tobytes())
    assert len(found) == 1


def test_a_scale_that_takes_a_multiple_beyond_float32_is_refused():
    encoder = multiplier(3, "sparse", FixedThresholdAlgorithm(1.0))
    message = encoder.encode(np.array([1.0, 8.0, 0], np.float32)).copy()
    out = np.ones(3, np.float32)
    decode_into([message], out, 4e37)
    assert np.isfinite(out).all()
    out[:] = 1.0
    with pytest.raises(NonFiniteError, match="message 0"):
        decode_into([message], out, 8e37)
    assert out.tolist() == [1.0, 1.0, 1.0]
    small = encoder.encode(np.array([3.0, 0, 0], np.float32))
    decode_into([small], out, 8e37)
    assert out[0] == np.float32(2.4e38), "what no code stands for is not looked at"


def test_a_broken_message_behind_a_good_one_changes_nothing():
    good = multiplier(100).encode(draw(np.random.default_rng(7), 100)).copy()
    bad = good.copy()
    bad[-1] ^= 1
    out = np.ones(100, np.float32)
    with pytest.raises(MessageError, match="message 1 of 2"):
        decode_into([good, bad], out)
    assert (out == 1).all()
    with pytest.raises(MessageError, match="at most 1"):
        decode_into([good], out, expected=Expected(max_count=1))


def test_the_observer_is_told_the_mean_multiple_of_every_group():
    seen = []
    encoder = multiplier(
        6,
        "rice",
        group_ends=[2, 2, 6],
        observer=seen.append,
        residual_post_processor=ResidualClippingPostProcessor(1.0, 1),
    )
    encoder.encode(np.array([0.5, 1.0, 4.0, -4.5, 0.25, 0.5], np.float32))
    assert [record.multiple for record in seen] == [1.5, 1.0, 17 / 3]
    assert [record.magnitude for record in seen] == [0.5, 0.0, 0.5]
    assert seen[2].as_event()["multiple"] == 17 / 3
    assert "magnitude 5.000e-01 x 5.67;" in str(seen[2])
    assert read_messages([encoder.encode(np.zeros(6, np.float32))], 6).messages[0].groups.counts == [0, 0, 1]
