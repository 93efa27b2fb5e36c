"""Threshold algorithms: Deeplearning4j's rules by hand, the automatic start, values refused, JSON."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

from hvdspark.codec import (
    AdaptiveThresholdAlgorithm,
    AnyThresholdAlgorithm,
    Encoder,
    FixedThresholdAlgorithm,
    QuantileThresholdAlgorithm,
    TargetSparsityThresholdAlgorithm,
    ThresholdAlgorithm,
    ThresholdState,
    read_header,
)
from hvdspark.codec.tau import MAX_TAU, MIN_TAU, are_taus, is_tau, round_tau
from hvdspark.config import Configuration
from hvdspark.errors import ConfigurationError

ADAPTIVE = AdaptiveThresholdAlgorithm
TARGET = TargetSparsityThresholdAlgorithm
DECAY = 0.9659363289248456


def no_quantile(density):
    raise AssertionError("a number to start with needs no quantile")


@pytest.mark.parametrize(
    ("algorithm", "threshold", "density", "wanted"),
    [
        (ADAPTIVE(1e-4), None, None, 1e-4),
        (ADAPTIVE(1e-4), 1e-4, 0.0, 1e-4 * 0.965936328924846),
        (ADAPTIVE(1e-4), 1e-4, 9.9e-5, 1e-4 * 0.965936328924846),
        (ADAPTIVE(1e-4), 1e-4, 1e-4, 1e-4),
        (ADAPTIVE(1e-4), 1e-4, 5e-3, 1e-4),
        (ADAPTIVE(1e-4), 1e-4, 1e-2, 1e-4),
        (ADAPTIVE(1e-4), 1e-4, 1.1e-2, 1e-4 * 1.035264923841378),
        (ADAPTIVE(1e-4), 1e-4, 1 / 16, 1e-4 * 1.035264923841378),
        (ADAPTIVE(1e-4), 1e-4, 1.0, 1e-4 * 1.035264923841378),
        (ADAPTIVE(1.0, 0.1, 0.2, 0.5), 3.0, 0.09, 1.5),
        (ADAPTIVE(1.0, 0.1, 0.2, 0.5), 3.0, 0.21, 6.0),
        (TARGET(1e-4), None, None, 1e-4),
        (TARGET(1e-4), 2e-3, 0.0, 2e-3 * 0.965936328924846),
        (TARGET(1e-4), 2e-3, 9.9e-4, 2e-3 * 0.965936328924846),
        (TARGET(1e-4), 2e-3, 1e-3, 2e-3),
        (TARGET(1e-4), 2e-3, 1.01e-3, 2e-3 * 1.035264923841378),
        (TARGET(1e-4, 0.01, 0.5), 2e-3, 0.02, 4e-3),
        (FixedThresholdAlgorithm(0.25), None, None, 0.25),
        (FixedThresholdAlgorithm(0.25), 0.25, 1.0, 0.25),
    ],
)
def test_rules_of_deeplearning4j(algorithm, threshold, density, wanted):
    state = ThresholdState(0 if threshold is None else 5, threshold, density)
    assert algorithm.next_threshold(state, no_quantile) == pytest.approx(wanted, rel=1e-12)


def test_a_tenfold_change_takes_67_encodes():
    algorithm = ADAPTIVE(1e-4)
    state = ThresholdState(1, 1e-4, 1.0)
    steps = 0
    while state.threshold < 1e-3:
        state = ThresholdState(steps, algorithm.next_threshold(state, no_quantile), 1.0)
        steps += 1
    assert steps == 67


@pytest.mark.parametrize(
    ("algorithm", "density"), [(ADAPTIVE(), 1e-3), (ADAPTIVE("auto", 1e-3, 0.1), 1e-2), (TARGET(), 1e-3)]
)
def test_auto_asks_for_the_quantile_of_its_density(algorithm, density):
    asked = []

    def quantile(share):
        asked.append(share)
        return 0.5

    assert algorithm.next_threshold(ThresholdState(), quantile) == 0.5
    failed = max(1 / 16, 40 * density)
    assert algorithm.next_threshold(ThresholdState(9, 0.1, failed, 1000), quantile) == 0.5
    assert asked == pytest.approx([density, density])
    assert algorithm.next_threshold(ThresholdState(9, 0.1, 0.0), quantile) == pytest.approx(0.1 * DECAY)
    algorithm.next_threshold(ThresholdState(9, 0.1, failed, 20), quantile)  # a few codes are no failure
    algorithm.next_threshold(ThresholdState(9, 0.1, 0.9 * failed, 1000), quantile)
    assert len(asked) == 2


def test_auto_without_anything_to_see_stays_undecided():
    for algorithm in (ADAPTIVE(), TARGET()):
        assert algorithm.next_threshold(ThresholdState(), lambda share: 0.0) is None
        assert algorithm.next_threshold(ThresholdState(3, None, 0.0), lambda share: 0.25) == 0.25
        assert algorithm.next_threshold(ThresholdState(3, 0.1, 0.9), lambda share: 0.0) == 0.1


@pytest.mark.parametrize("n", [1, 1000, 3_000_000])
@pytest.mark.parametrize(
    ("algorithm", "density"), [(ADAPTIVE(), 1e-3), (TARGET("auto", 0.01), 0.01), (QuantileThresholdAlgorithm(), 0.01)]
)
def test_the_first_message_has_the_density_asked_for(n, algorithm, density):
    update = np.random.default_rng(n).standard_normal(n).astype(np.float32) ** 3
    encoder = Encoder(n, threshold_algorithm=algorithm, format="sparse")
    encoder.encode(update)
    assert encoder.density == pytest.approx(max(density, 1 / n), rel=0.12)


def test_a_start_that_was_too_small_is_taken_again():
    """A warm-up makes the first update tiny: the slow rule alone would take hundreds of steps to follow."""
    rng = np.random.default_rng(1)
    encoder = Encoder(20_000, threshold_algorithm=TARGET())
    densities = []
    for scale in (1e-6, 1.0, 1.0, 1.0):
        encoder.encode((rng.standard_normal(20_000) * scale).astype(np.float32))
        densities.append(encoder.density)
    assert densities[0] == pytest.approx(1e-3, rel=0.2)
    assert densities[1] >= 1 / 16
    assert densities[2] == pytest.approx(1e-3, rel=0.2)
    assert densities[3] < 1 / 16  # the residual now adds to the update


@pytest.mark.parametrize("magnitude", ["threshold", "mean", "multiples"])
def test_a_quantile_gives_every_message_its_density(magnitude):
    rng = np.random.default_rng(1)
    encoder = Encoder(20_000, threshold_algorithm=QuantileThresholdAlgorithm(0.03), magnitude=magnitude)
    for scale in (1e-6, 1.0, 1e-3, 1.0):
        message = encoder.encode((rng.standard_normal(20_000) * scale).astype(np.float32))
        assert read_header(message).count == pytest.approx(600, rel=0.06)  # tau is rounded down: some more reach it
    encoder = Encoder(20_000, threshold_algorithm=QuantileThresholdAlgorithm())
    for _ in range(2):
        assert read_header(encoder.encode(np.zeros(20_000, np.float32))).count == 0


def test_few_elements_that_differ_from_zero_do_not_drag_the_threshold_down():
    update = np.zeros(10_000, np.float32)
    update[:4] = [1e-30, 0.5, 0.5, 1.0]  # fewer than 1e-3 of all, one of them a speck
    encoder = Encoder(10_000, threshold_algorithm=ADAPTIVE())
    encoder.encode(update)
    assert encoder.threshold == 0.5
    assert encoder.density == 3e-4


def test_what_a_sample_misses_is_found():
    update = np.zeros((1 << 20) + 1, np.float32)
    missed = np.setdiff1d(np.arange(100), np.random.default_rng(update.size).integers(0, update.size, 1 << 20))[0]
    update[missed] = 0.25
    encoder = Encoder(update.size, threshold_algorithm=ADAPTIVE())
    assert read_header(encoder.encode(update)).count == 1
    assert encoder.threshold == 0.25


def test_the_threshold_is_a_bfloat16_number_not_above_the_one_asked_for():
    rng = np.random.default_rng(2)
    for asked in [1e-3, 0.3, 1.0, 3e38, *np.exp(rng.uniform(-27, 80, 200))]:
        encoder = Encoder(8, threshold_algorithm=FixedThresholdAlgorithm(float(asked)), format="sparse")
        tau = read_header(encoder.encode(np.full(8, asked, np.float32))).magnitude
        assert encoder.threshold == tau
        assert np.float32(tau).view(np.uint32) & 0xFFFF == 0
        assert asked * (1 - 2**-7) <= tau <= asked or (asked < 1.01e-12 and tau == pytest.approx(1e-12, rel=1e-2))
        assert encoder.density == 1.0


def test_the_threshold_has_a_floor_that_it_leaves_again():
    algorithm = TARGET(1e-12, 0.05, 0.5)
    encoder = Encoder(100, threshold_algorithm=algorithm)
    for _ in range(2000):  # a warm-up from a learning rate of zero
        encoder.encode(np.zeros(100, np.float32))
    assert 1e-12 <= encoder.threshold < 1.01e-12
    update = np.random.default_rng(0).standard_normal(100).astype(np.float32)
    for _ in range(45):  # doubling takes 40 steps from 1e-12 to 1
        encoder.encode(update)
    assert encoder.threshold > 0.5


def test_denormal_numbers_are_zero_where_the_process_flushes_them():
    """torch.set_flush_denormal(True) and a learning rate that warms up from zero."""
    code = """
import numpy as np, torch
from hvdspark import AdaptiveThresholdAlgorithm
from hvdspark.codec import Encoder
assert torch.set_flush_denormal(True)
encoder = Encoder(100, threshold_algorithm=AdaptiveThresholdAlgorithm())
for update in (np.full(100, 1e-41, np.float32), np.zeros(100, np.float32), np.ones(100, np.float32)):
    encoder.encode(update)
assert encoder.threshold is not None
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=50)


class Halving(ThresholdAlgorithm):
    """A user's own: starts at `start` and halves."""

    start: float = 1.0

    def next_threshold(self, state, quantile):
        return state.threshold / 2 if state.threshold else self.start


def test_a_users_own_algorithm_works_and_is_rebuilt(monkeypatch):
    encoder = Encoder(4, threshold_algorithm=Halving(start=8.0))
    taus = []
    for _ in range(3):
        encoder.encode(np.array([1, 0, 0, 0], np.float32))
        taus.append(encoder.threshold)
    assert taus == [8.0, 4.0, 2.0]
    text = Halving(start=8.0).to_json()
    with pytest.raises(ConfigurationError, match="Halving"):
        ThresholdAlgorithm.from_json(text)
    monkeypatch.setattr(ThresholdAlgorithm, "known", [*ThresholdAlgorithm.known, Halving])
    assert ThresholdAlgorithm.from_json(text) == Halving(start=8.0)


@pytest.mark.parametrize("answer", [0.0, -1.0, math.nan, math.inf])
def test_a_users_bad_answer_is_refused_by_name(answer):
    class Broken(ThresholdAlgorithm):
        def next_threshold(self, state, quantile):
            return answer

    encoder = Encoder(4, threshold_algorithm=Broken())
    with pytest.raises(ConfigurationError, match="Broken gave"):
        encoder.encode(np.ones(4, np.float32))
    assert not encoder.residual.any()


def test_no_answer_for_an_update_that_is_not_zero_is_refused():
    class Silent(ThresholdAlgorithm):
        def next_threshold(self, state, quantile):
            return None

    with pytest.raises(ConfigurationError, match="Silent gave no threshold"):
        Encoder(4, threshold_algorithm=Silent()).encode(np.ones(4, np.float32))


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: FixedThresholdAlgorithm(0.0), "threshold"),
        (lambda: FixedThresholdAlgorithm(-1.0), "threshold"),
        (lambda: FixedThresholdAlgorithm(math.nan), "threshold"),
        (lambda: FixedThresholdAlgorithm(math.inf), "threshold"),
        (lambda: ADAPTIVE(0.0), "initial_threshold"),
        (lambda: ADAPTIVE("automatic"), "initial_threshold"),
        (lambda: ADAPTIVE(None), "initial_threshold"),
        (lambda: ADAPTIVE(True), "initial_threshold"),
        (lambda: ADAPTIVE(math.inf), "initial_threshold"),
        (lambda: ADAPTIVE(min_target_sparsity=0.0), "min_target_sparsity"),
        (lambda: ADAPTIVE(min_target_sparsity=0.1), "min_target_sparsity 0.1 is above max_target_sparsity 0.01"),
        (lambda: ADAPTIVE(max_target_sparsity=1.1), "max_target_sparsity"),
        (lambda: ADAPTIVE(decay_rate=0.49), "decay_rate"),
        (lambda: ADAPTIVE(decay_rate=1.0), "decay_rate"),
        (lambda: TARGET(sparsity_target=0.0), "sparsity_target"),
        (lambda: TARGET(sparsity_target=1 / 16), "sparsity_target"),
        (lambda: TARGET(decay_rate=1.0), "decay_rate"),
        (lambda: TARGET(initial_threshold=1e-13), "initial_threshold"),
    ],
)
def test_values_out_of_range_are_refused_by_name(make, named):
    with pytest.raises(ConfigurationError, match=named):
        make()


ALGORITHMS = [
    FixedThresholdAlgorithm(0.1),
    ADAPTIVE(),
    ADAPTIVE(1e-3, 1e-5, 1e-1, 0.9),
    TARGET(),
    TARGET(1e-3, 0.01, 0.5),
]


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=repr)
def test_json_and_yaml_round_trips(algorithm):
    assert json.loads(algorithm.to_json())["type"] == type(algorithm).__name__
    for cls in (type(algorithm), ThresholdAlgorithm):
        assert cls.from_json(algorithm.to_json()) == algorithm
        assert cls.from_yaml(algorithm.to_yaml()) == algorithm
    assert algorithm.replaced() == algorithm


def test_a_field_of_any_algorithm_round_trips():
    class Options(Configuration):
        algorithm: AnyThresholdAlgorithm

    for algorithm in ALGORITHMS:
        assert Options.from_json(Options(algorithm=algorithm).to_json()).algorithm == algorithm


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type": "AdaptivThresholdAlgorithm"}', "did you mean 'AdaptiveThresholdAlgorithm'"),
        ('{"type": "os.system"}', "is not known here: known are Adaptive"),
        ('{"decay_rate": 0.9}', "type None is not known"),
        ('{"type": ["x"]}', "is not known"),
        ('{"type": "FixedThresholdAlgorithm", "treshold": 1}', "treshold"),
        ('{"type": "FixedThresholdAlgorithm"}', "needs threshold"),
        ("[]", "a mapping with a 'type' is needed"),
    ],
)
def test_json_that_names_no_algorithm_is_refused(text, message):
    with pytest.raises(ConfigurationError, match=message):
        ThresholdAlgorithm.from_json(text)


def test_json_of_another_class_is_refused():
    with pytest.raises(ConfigurationError, match="known are AdaptiveThresholdAlgorithm"):
        ADAPTIVE.from_json('{"type": "Zero"}')


def test_a_threshold_of_the_wire_is_told_by_itself_and_among_many():
    bits = np.random.default_rng(0).integers(0, 2**32, 20_000, dtype=np.uint32)
    bits[::2] &= 0xFFFF0000
    borders = np.array([MIN_TAU, MAX_TAU, 0.0, -0.0, np.inf, np.nan, -1.0, 1e-40], np.float32)
    around = (borders[:2].view(np.uint32)[:, None] + np.array([1, 1 << 16, -1, -(1 << 16)])).astype(np.uint32)
    values = np.concatenate([bits.view(np.float32), borders, around.ravel().view(np.float32)])
    wanted = [math.isfinite(value) and value >= MIN_TAU and value == round_tau(value) for value in map(float, values)]
    assert are_taus(values).tolist() == wanted
    assert [is_tau(float(value)) for value in values] == wanted
