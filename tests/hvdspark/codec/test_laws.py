"""The laws of the codec, on every format and every algorithm."""

import numpy as np
import pytest

from contracts import codec
from hvdspark.codec import (
    AdaptiveThresholdAlgorithm,
    Encoder,
    FixedThresholdAlgorithm,
    QuantileThresholdAlgorithm,
    ResidualClippingPostProcessor,
    TargetSparsityThresholdAlgorithm,
    decode_into,
)

LAWS, AGREED = codec.LAWS, codec.encoders_that_agree_use_the_same_thresholds
OPTIONS = {
    "auto-adaptive-clipped": {
        "threshold_algorithm": AdaptiveThresholdAlgorithm(),
        "residual_post_processor": ResidualClippingPostProcessor(1.0, 3),
    },
    "auto-target": {"threshold_algorithm": TargetSparsityThresholdAlgorithm()},
    "auto-tiny-threshold": {"threshold_algorithm": FixedThresholdAlgorithm(1e-12)},
    "auto-mean": {"threshold_algorithm": TargetSparsityThresholdAlgorithm(), "magnitude": "mean"},
    "auto-multiples": {"threshold_algorithm": TargetSparsityThresholdAlgorithm(), "magnitude": "multiples"},
    "rice-multiples": {
        "threshold_algorithm": AdaptiveThresholdAlgorithm(),
        "residual_post_processor": ResidualClippingPostProcessor(2.0, 2),
        "format": "rice",
        "magnitude": "multiples",
    },
    "bitmap-tiny-multiples": {
        "threshold_algorithm": FixedThresholdAlgorithm(1e-12),
        "format": "bitmap",
        "magnitude": "multiples",
    },
    "sparse-multiples": {
        "threshold_algorithm": FixedThresholdAlgorithm(1e-3),
        "format": "sparse",
        "magnitude": "multiples",
    },
    "rice-fixed": {"threshold_algorithm": FixedThresholdAlgorithm(1e-3), "format": "rice"},
    "rice-adaptive-mean": {
        "threshold_algorithm": AdaptiveThresholdAlgorithm(),
        "residual_post_processor": ResidualClippingPostProcessor(2.0, 2),
        "format": "rice",
        "magnitude": "mean",
    },
    "bitmap-tiny-threshold": {"threshold_algorithm": FixedThresholdAlgorithm(1e-12), "format": "bitmap"},
    "bitmap-mean": {"threshold_algorithm": AdaptiveThresholdAlgorithm(), "format": "bitmap", "magnitude": "mean"},
    "sparse-fixed": {"threshold_algorithm": FixedThresholdAlgorithm(1e-3), "format": "sparse"},
    "sparse-dl4j": {"threshold_algorithm": AdaptiveThresholdAlgorithm(1e-4), "format": "sparse"},
    "dense": {"format": "dense"},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law(law, options):
    law(lambda n, **more: Encoder(n, **{**options, **more}))


@pytest.mark.parametrize("law", [law for law in LAWS if law is not AGREED], ids=lambda law: law.__name__)
def test_law_where_each_rank_has_a_threshold_of_its_own(law):
    law(lambda n, **more: Encoder(n, **{"threshold_algorithm": QuantileThresholdAlgorithm(0.05), **more}))


GROUPED = {name: options for name, options in OPTIONS.items() if options.get("format") != "dense"}


@pytest.mark.parametrize("options", GROUPED.values(), ids=GROUPED)
@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_law_with_a_threshold_for_each_of_four_groups(law, options):
    def make(n, **more):
        ends = [n // 3, n // 3, n - n // 5, n]  # the second is empty
        return Encoder(n, group_ends=ends, **{**options, **more})

    law(make)


def test_there_are_laws():
    assert len(codec.LAWS) == 17


@pytest.mark.parametrize("magnitude", ["threshold", "multiples"])
def test_ten_thousand_steps_against_a_float64_shadow(magnitude):
    n, steps = 128, 10_000
    encoder = Encoder(n, threshold_algorithm=AdaptiveThresholdAlgorithm(), magnitude=magnitude)
    rng = np.random.default_rng(4)
    decoded, given = np.zeros(n), np.zeros(n)
    passed_by = np.zeros(n)
    for _ in range(steps):
        update = (rng.standard_normal(n) ** 3 * 1e-2 + 1e-3).astype(np.float32)
        out = np.zeros(n, np.float32)
        decode_into([encoder.encode(update)], out)
        decoded += out
        given += update
        passed_by += np.abs(update)
    error = np.linalg.norm(decoded + encoder.residual - given)
    assert error <= 1e-6 * np.linalg.norm(passed_by)


@pytest.mark.parametrize("magnitude", ["threshold", "multiples"])
def test_one_step_is_exact_bit_for_bit_with_a_bfloat16_threshold(magnitude):
    rng = np.random.default_rng(5)
    encoder = Encoder(5000, threshold_algorithm=FixedThresholdAlgorithm(0.0123), magnitude=magnitude)
    for _ in range(50):
        update = (rng.standard_normal(5000) * 0.02).astype(np.float32)
        total = encoder.residual + update
        out = np.zeros(5000, np.float32)
        decode_into([encoder.encode(update)], out)
        assert (out + encoder.residual).tobytes() == (total + np.float32(0)).tobytes()
