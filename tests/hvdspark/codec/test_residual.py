"""Residual post-processors: when they act, what they discard, what they refuse."""

import numpy as np
import pytest

from hvdspark.codec import (
    AnyResidualPostProcessor,
    Encoder,
    FixedThresholdAlgorithm,
    NoOpResidualPostProcessor,
    ResidualClippingPostProcessor,
    ResidualPostProcessor,
)
from hvdspark.config import Configuration
from hvdspark.errors import ConfigurationError


def test_clipping_acts_at_every_fifth_encode_and_never_at_the_first():
    clipping = ResidualClippingPostProcessor(2.0, 5)
    acted = []
    for iteration in range(16):
        residual = np.array([5.0, -3.0, 1.0], np.float32)
        mass = clipping.process(residual, iteration, 1.0)
        if mass:
            acted.append(iteration)
            assert residual.tolist() == [2.0, -2.0, 1.0]
            assert mass == 4.0
    assert acted == [5, 10, 15]


def test_the_encoder_clips_with_the_threshold_just_used_and_counts():
    encoder = Encoder(
        2,
        threshold_algorithm=FixedThresholdAlgorithm(1.0),
        residual_post_processor=ResidualClippingPostProcessor(5.0, 1),
        format="sparse",
    )
    encoder.encode(np.array([10.0, 0.25], np.float32))
    assert encoder.residual.tolist() == [9.0, 0.25]  # the first encode is never clipped
    assert encoder.clipped_mass == 0.0
    encoder.encode(np.zeros(2, np.float32))
    assert encoder.residual.tolist() == [5.0, 0.25]  # 9 - 1 is 8, clipped to 5
    assert encoder.clipped_mass == 3.0
    encoder.encode(np.array([-12.0, 0.0], np.float32))
    assert encoder.residual.tolist() == [-5.0, 0.25]
    assert encoder.clipped_mass == 4.0


def test_a_users_own_processor_is_called_with_what_it_needs():
    calls = []

    class Halve(ResidualPostProcessor):
        def process(self, residual, iteration, threshold, num_threads=None):
            calls.append((iteration, threshold, num_threads))
            mass = float(np.abs(residual).sum()) / 2
            residual *= 0.5
            return mass

    encoder = Encoder(
        2,
        threshold_algorithm=FixedThresholdAlgorithm(4.0),
        residual_post_processor=Halve(),
        num_threads=2,
    )
    encoder.encode(np.array([1.0, 3.0], np.float32))
    encoder.encode(np.array([4.0, 4.0], np.float32))
    assert calls == [(0, 4.0, 2), (1, 4.0, 2)]
    assert encoder.clipped_mass == 3.0


@pytest.mark.parametrize(
    ("multiple", "frequency"), [(0.5, 5), (float("nan"), 5), (float("inf"), 5), (5.0, 0), (5.0, 1.5)]
)
def test_values_out_of_range_are_refused(multiple, frequency):
    with pytest.raises(ConfigurationError, match=r"threshold_multiple|frequency"):
        ResidualClippingPostProcessor(multiple, frequency)


@pytest.mark.parametrize("processor", [NoOpResidualPostProcessor(), ResidualClippingPostProcessor(5.0, 5)], ids=repr)
def test_json_round_trips(processor):
    class Options(Configuration):
        processor: AnyResidualPostProcessor | None

    assert ResidualPostProcessor.from_json(processor.to_json()) == processor
    assert type(processor).from_yaml(processor.to_yaml()) == processor
    assert Options.from_json(Options(processor=processor).to_json()).processor == processor
    assert Options.from_json(Options(processor=None).to_json()).processor is None


def test_an_unknown_processor_is_refused():
    with pytest.raises(ConfigurationError, match="NoOpResidualPostProcessor"):
        ResidualPostProcessor.from_json('{"type": "NoOp"}')
