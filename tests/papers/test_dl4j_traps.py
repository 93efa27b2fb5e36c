"""What went wrong in Deeplearning4j's gradient sharing, found by reading its source, and must not go wrong here."""

import numpy as np
import pytest

from hvdspark.codec import (
    AdaptiveThresholdAlgorithm,
    Encoder,
    FixedThresholdAlgorithm,
    ResidualClippingPostProcessor,
    decode_into,
    read_header,
)

FORMATS = ["sparse", "rice", "bitmap", "dense", "auto"]


def encoder(n, form="auto", tau=0.5, **options):
    algorithm = None if form == "dense" else FixedThresholdAlgorithm(tau)
    return Encoder(n, threshold_algorithm=algorithm, format=form, **options)


def decoded(message, n):
    out = np.zeros(n, np.float32)
    decode_into([message], out)
    return out


def test_a_switch_between_formats_loses_nothing():
    """There, a sparse pass that ran into its cap had already changed the residual, and was thrown away."""
    n = 1600
    rng = np.random.default_rng(1)
    given, received = np.zeros(n), np.zeros(n, np.float32)
    state, seen = None, set()
    for _ in range(80):
        for form in FORMATS:
            one = encoder(n, form)
            if state:
                one.load_state_dict(state)
            share = rng.choice([0.0, 0.001, 0.05, 0.5, 1.0])
            update = (rng.integers(-8, 9, n) * (rng.random(n) < share) / 8).astype(np.float32)  # every sum is exact
            given += update
            message = one.encode(update)
            seen.add(read_header(message).format)
            decode_into([message], received)
            assert np.array_equal(received + one.residual, given)
            state = one.state_dict()
    assert seen == {1, 2, 3, 4}


@pytest.mark.parametrize("magnitude", ["threshold", "mean", "multiples"])
@pytest.mark.parametrize("form", ["sparse", "rice", "bitmap"])
def test_the_negated_update_gives_the_negated_message(form, magnitude):
    """There, the bitmap has a half step for negative elements only, and so a bias."""
    n = 200_000
    update = np.random.default_rng(2).normal(0, 0.6, n).astype(np.float32)
    one, other = (encoder(n, form, 1.0, magnitude=magnitude) for _ in range(2))
    sent = decoded(one.encode(update), n)
    assert np.array_equal(decoded(other.encode(-update), n), -sent)
    assert abs(sent.mean(dtype=np.float64)) < 5 * sent.std() / n**0.5


@pytest.mark.parametrize("form", ["sparse", "rice", "bitmap", "auto"])
@pytest.mark.parametrize("n", [1, 2, 63, 64, 1000])
def test_a_single_element_is_sent_and_zeros_are_not(n, form):
    """There, nothing is sent where fewer than two elements qualify."""
    one = encoder(n, form)
    update = np.zeros(n, np.float32)
    assert read_header(one.encode(update)).count == 0
    update[n // 2] = -0.5
    message = one.encode(update)
    assert read_header(message).count == 1
    assert np.array_equal(decoded(message, n), update)


def test_the_adaptive_rule_through_the_encoder():
    """A tenfold change takes 67 encodes, nothing moves inside the band, and the state survives a checkpoint."""
    n = 10_000
    rule = AdaptiveThresholdAlgorithm(1e-3)
    busy = np.full(n, 1.0, np.float32)
    one = Encoder(n, threshold_algorithm=rule)
    encodes = 0
    while one.threshold is None or one.state_dict()["thresholds"][0] < 1e-2:
        one.encode(busy)
        encodes += 1
        if encodes == 30:
            state = one.state_dict()
            one = Encoder(n, threshold_algorithm=rule)
            one.load_state_dict(state)
    assert encodes == 1 + 67
    calm = Encoder(n, threshold_algorithm=rule)
    for _ in range(30):
        update = np.zeros(n, np.float32)
        update[:50] = 5e-4  # 50 of 10,000 every second time: inside of 1e-4 ... 1e-2 on both
        update[50] = 1.0
        calm.encode(update)
    assert calm.state_dict()["thresholds"] == [np.float32(1e-3)]


def test_thresholds_have_bounds():
    n = 100
    one = Encoder(n, threshold_algorithm=AdaptiveThresholdAlgorithm(1e-12, 0.5, 1.0, 0.5))
    for _ in range(10):
        one.encode(np.zeros(n, np.float32))
    assert 1e-12 <= one.threshold < 1.1e-12
    large = Encoder(n, threshold_algorithm=AdaptiveThresholdAlgorithm(1e38, 1e-9, 1e-8, 0.5))
    for step in range(10):
        update = np.full(n, (-1.0) ** step * 3.4e38, np.float32)
        assert np.isfinite(decoded(large.encode(update), n) + large.residual).all()
    assert np.isfinite(large.threshold)


def test_clipping_acts_at_every_kth_encode_with_the_threshold_just_used():
    n = 4
    one = encoder(n, "sparse", 1.0, residual_post_processor=ResidualClippingPostProcessor(5.0, 3))
    masses = []
    for _ in range(7):
        one.residual[:] = [100.0, -100.0, 0.5, 0.0]
        before = one.clipped_mass
        one.encode(np.zeros(n, np.float32))
        masses.append(one.clipped_mass - before)
    assert masses == [0, 0, 0, 188, 0, 0, 188]  # 100 - 1 - 5, twice
    silent = encoder(n, "sparse", 1.0, residual_post_processor=ResidualClippingPostProcessor(1.0, 1))
    silent.encode(np.zeros(n, np.float32))
    silent.residual[:] = 0.75
    silent.encode(np.zeros(n, np.float32))
    assert silent.clipped_mass == 0.0
