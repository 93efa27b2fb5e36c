"""The encoder through its public surface: formats, options, errors, memory, threads."""

import threading
import tracemalloc

import numpy as np
import pytest

from hvdspark.codec import (
    AdaptiveThresholdAlgorithm,
    Encoder,
    FixedThresholdAlgorithm,
    NoOpResidualPostProcessor,
    ResidualClippingPostProcessor,
    Stamp,
    TargetSparsityThresholdAlgorithm,
    decode_into,
    read_header,
    read_messages,
)
from hvdspark.errors import ConfigurationError, UnsupportedError

HALF = FixedThresholdAlgorithm(0.5)
SPARSE, DENSE, RICE, BITMAP = 1, 2, 3, 4


def test_a_message_by_hand():
    encoder = Encoder(5, threshold_algorithm=HALF, format="sparse")
    message = encoder.encode(np.array([0.5, -0.75, 0.25, 2.0, -0.25], np.float32))
    assert message[64:].view("<i4").tolist() == [1, -2, 4]
    assert message.size == 64 + 12
    assert encoder.residual.tolist() == [0.0, -0.25, 0.25, 1.5, -0.25]
    assert (encoder.threshold, encoder.density, encoder.clipped_mass, encoder.n) == (0.5, 0.6, 0.0, 5)
    message = encoder.encode(np.array([0.0, -0.25, 0.0, 0.0, 0.0], np.float32))
    assert message[64:].view("<i4").tolist() == [-2, 4]
    out = np.zeros(5, np.float32)
    decode_into([message], out, scale=2.0)
    assert out.tolist() == [0, -1, 0, 1, 0]


def test_the_header_bytes_are_what_the_table_says():
    message = Encoder(3, threshold_algorithm=FixedThresholdAlgorithm(0.51), format="sparse").encode(
        np.array([0, 1, 0], np.float32), Stamp(run_id=1, rank=2, step=3, examples=4)
    )
    assert bytes(message[:60]) == (
        b"HVDS" b"\x02\x00" b"\x01" b"\x00" b"\x01\0\0\0\0\0\0\0" b"\x03\0\0\0\0\0\0\0" b"\x03\0\0\0" b"\x01\0\0\0"
        b"\x01\0\0\0" b"\x5c\x8f\x02\x3f" b"\x04\0\0\0\0\0\0\0" b"\x02\0\0\0" b"\0\0\x02\x3f" b"\x04\0\0\0"
    )  # fmt: skip
    assert message[64:].tolist() == [2, 0, 0, 0]


def test_nothing_is_known_before_the_first_message():
    encoder = Encoder(5, threshold_algorithm=AdaptiveThresholdAlgorithm())
    assert (encoder.threshold, encoder.density, encoder.clipped_mass) == (None, None, 0.0)
    assert encoder.residual.tolist() == [0.0] * 5
    encoder.encode(np.zeros(5, np.float32))
    assert (encoder.threshold, encoder.density) == (None, 0.0)


@pytest.mark.parametrize(("share", "form"), [(1e-3, RICE), (0.01, RICE), (0.3, RICE), (0.9, BITMAP), (1.0, BITMAP)])
def test_auto_takes_the_smallest_format(share, form):
    n = 10_000
    update = np.zeros(n, np.float32)
    update[np.random.default_rng(1).choice(n, int(share * n), replace=False)] = 0.75
    sizes = {}
    for name in ("auto", "sparse", "rice", "bitmap"):
        encoder = Encoder(n, threshold_algorithm=HALF, format=name)
        message = encoder.encode(update)
        sizes[name] = message.size
        assert encoder.density == share
        if name == "auto":
            assert read_header(message).format == form
    assert sizes.pop("auto") == min(sizes.values())


def test_auto_lists_a_few_codes_as_they_are():
    update = np.zeros(1000, np.float32)
    update[7] = 1.0
    message = Encoder(1000, threshold_algorithm=HALF).encode(update)
    assert (message.size, read_header(message).format) == (68, SPARSE)


def test_the_mean_magnitude_by_hand():
    encoder = Encoder(5, threshold_algorithm=HALF, magnitude="mean", format="sparse")
    message = encoder.encode(np.array([0.5, -0.75, 0.25, 0.75, -0.25], np.float32))
    header = read_header(message)
    mean = 0.6640625  # 2 / 3, rounded down to eight significant bits
    assert (header.magnitude, header.threshold, encoder.threshold) == (mean, 0.5, 0.5)
    assert encoder.residual.tolist() == [0.5 - mean, mean - 0.75, 0.25, 0.75 - mean, -0.25]
    message = encoder.encode(np.array([9.0, 0, 0, 0, 0], np.float32))
    assert read_header(message).magnitude == 1.0, "never above twice the threshold"


def test_a_threshold_for_each_group():
    encoder = Encoder(
        6, threshold_algorithm=TargetSparsityThresholdAlgorithm(sparsity_target=0.05), group_ends=[2, 2, 6]
    )
    update = np.array([1.0, 0.5, 1e-3, -8e-3, 4e-3, 0.0], np.float32)
    message = encoder.encode(update)
    assert encoder.thresholds == (1.0, None, pytest.approx(8e-3, rel=1e-2))
    groups = read_messages([message], 6).messages[0].groups
    assert groups.counts == [1, 0, 1]
    out = np.zeros(6, np.float32)
    decode_into([message], out)
    assert out.tolist() == [1.0, 0, 0, -encoder.thresholds[2], 0, 0]
    assert (out + encoder.residual).tolist() == update.tolist()


def test_agreement_takes_the_means_of_all_ranks():
    encoders = [Encoder(100, threshold_algorithm=AdaptiveThresholdAlgorithm("auto", 0.01, 0.03)) for _ in range(3)]
    updates = [np.zeros(100, np.float32) for _ in range(3)]
    updates[0][:2], updates[1][:4] = 1.0, 3.0  # the third rank has nothing to say
    messages = [encoder.encode(update).copy() for encoder, update in zip(encoders, updates, strict=True)]
    assert [encoder.thresholds for encoder in encoders] == [(1.0,), (3.0,), (None,)]
    for encoder in encoders:
        encoder.agree(read_messages(messages, 100).messages)
        assert encoder.density == pytest.approx(0.02)
        encoder.encode(updates[2])
        assert encoder.thresholds == (2.0,)
    other = Encoder(100, threshold_algorithm=HALF, group_ends=[50, 100]).encode(updates[0])
    with pytest.raises(ConfigurationError, match="1 groups, the messages have"):
        encoders[0].agree(read_messages([other], 100).messages)


def test_gradients_may_be_accumulated_straight_into_the_residual():
    """As torch does where ``.grad`` is a view of it, and nobody zeroes it."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(40, 25))
    options = {"threshold_algorithm": FixedThresholdAlgorithm(0.25)}
    aliased, plain = Encoder(1000, **options), Encoder(1000, **options)
    weight.grad = torch.from_numpy(aliased.residual).view(40, 25)
    for _ in range(5):
        x = torch.randn(8, 40)
        (gradient,) = torch.autograd.grad((x @ weight).square().mean(), weight)
        (x @ weight).square().mean().backward()
        assert aliased.encode_accumulated().tobytes() == plain.encode(gradient.reshape(-1).numpy()).tobytes()
        assert aliased.residual.tobytes() == plain.residual.tobytes()


def test_the_observer_sees_every_group():
    seen = []
    encoder = Encoder(
        1000,
        threshold_algorithm=HALF,
        residual_post_processor=ResidualClippingPostProcessor(1.0, 1),
        group_ends=[100, 1000],
        observer=seen.append,
    )
    update = np.linspace(0, 1, 1000, dtype=np.float32)
    encoder.residual[:] = update
    for step in range(2):
        message = encoder.encode(np.zeros(1000, np.float32), Stamp(rank=3, step=step))
    first, second, third, fourth = seen
    assert (first.rank, first.step, first.group, first.elements, first.codes) == (3, 0, 0, 100, 0)
    assert (second.codes, second.density) == (500, 500 / 900)
    assert second.magnitudes.largest == 1.0
    assert second.magnitudes.percentiles[50.0] == pytest.approx(np.median(update[100:]))
    assert fourth.message_bytes == message.size
    assert fourth.clipped_mass == encoder.clipped_mass
    event = fourth.as_event()
    assert (event["step"], event["p99.9"]) == (1, fourth.magnitudes.percentiles[99.9])
    assert "p99.9" in str(third)


def test_dense_sends_residual_and_update_exactly():
    encoder = Encoder(3, format="dense")
    encoder.residual[:] = [1.0, -2.0, 0.25]
    out = np.zeros(3, np.float32)
    message = encoder.encode(np.array([0.1, 0.0, -0.25], np.float32))
    decode_into([message], out)
    assert out.tolist() == [float(np.float32(1.0) + np.float32(0.1)), -2.0, 0.0]
    assert not encoder.residual.any()
    assert (encoder.threshold, encoder.density) == (None, 1 / 16)
    header = read_header(message)
    assert (header.format, header.count, header.magnitude) == (DENSE, 3, 0.0)


def test_a_change_of_format_loses_nothing():
    n = 300
    rng = np.random.default_rng(1)
    formats = ["sparse", "auto", "dense", "rice", "bitmap", "dense", "auto"]
    encoder = Encoder(n, threshold_algorithm=HALF, format="sparse")
    given, out = np.zeros(n), np.zeros(n, np.float32)
    for step in range(60):
        update = rng.integers(-3, 4, n).astype(np.float32) / 4  # quarters: every sum is exact
        given += update
        decode_into([encoder.encode(update)], out)
        assert np.array_equal(out + encoder.residual, given)
        other = Encoder(n, threshold_algorithm=HALF, format=formats[step % 7])
        other.load_state_dict(encoder.state_dict())
        encoder = other


def test_a_message_is_valid_until_the_next_encode_only():
    encoder = Encoder(100, threshold_algorithm=HALF)
    first = encoder.encode(np.eye(1, 100, 3, dtype=np.float32)[0])
    second = encoder.encode(np.eye(1, 100, 7, dtype=np.float32)[0])
    assert np.shares_memory(first, second)


def test_encode_allocates_nothing_large_after_its_first_call():
    n = 1_200_000
    rng = np.random.default_rng(2)
    encoder = Encoder(
        n,
        threshold_algorithm=AdaptiveThresholdAlgorithm(),
        residual_post_processor=ResidualClippingPostProcessor(5.0, 2),
    )
    update = rng.standard_normal(n).astype(np.float32)
    weights = np.zeros(n, np.float32)
    for _ in range(3):
        encoder.encode(update)
        encoder.encode_difference(weights, update)
    tracemalloc.start()
    try:
        for _ in range(4):
            encoder.encode(update)
            encoder.encode_difference(weights, update)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 500_000, f"{peak} bytes"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n": 0}, ConfigurationError, "n must be"),
        ({"n": 2**31}, ConfigurationError, "cut larger updates"),
        ({"n": 1.5}, ConfigurationError, "n must be"),
        ({"n": True}, ConfigurationError, "n must be"),
        ({"format": "zip"}, ConfigurationError, "'auto', 'sparse', 'rice', 'bitmap', 'dense'"),
        ({"magnitude": "median"}, ConfigurationError, "'threshold', 'mean', 'multiples'"),
        ({"format": "dense", "magnitude": "mean"}, ConfigurationError, "cannot act"),
        ({"format": "dense", "magnitude": "multiples"}, ConfigurationError, "cannot act"),
        ({"format": "dense", "group_ends": [10]}, ConfigurationError, "cannot act"),
        ({"group_ends": [3, 9]}, ConfigurationError, "rise to n = 10"),
        ({"group_ends": [5, 3, 10]}, ConfigurationError, "rise to n = 10"),
        ({"group_ends": []}, ConfigurationError, "rise to n = 10"),
        ({"device": "tpu"}, ConfigurationError, "'cpu', 'cuda'"),
        ({"device": "cuda:x"}, ConfigurationError, "'cpu', 'cuda'"),
        ({"threshold_algorithm": None}, ConfigurationError, "needs a threshold_algorithm"),
        ({"threshold_algorithm": 1e-3}, UnsupportedError, "ThresholdAlgorithm, not a float"),
        ({"residual_post_processor": 5.0}, UnsupportedError, "ResidualPostProcessor, not a float"),
        ({"num_threads": 0}, ConfigurationError, "num_threads"),
        ({"num_threads": 1.5}, ConfigurationError, "num_threads"),
        ({"group_ends": [2.5, 10]}, ConfigurationError, "whole numbers"),
        ({"names": [("weight", 0, 11)]}, ConfigurationError, "'weight' spans 0..11"),
    ],
)
def test_options_out_of_range_are_refused(options, error, message):
    options = {"n": 10, "threshold_algorithm": HALF} | options
    with pytest.raises(error, match=message):
        Encoder(options.pop("n"), **options)


@pytest.mark.parametrize(
    ("update", "error", "message"),
    [
        ([0.0] * 10, UnsupportedError, "NumPy array, not a list"),
        (np.zeros(10), UnsupportedError, "float32, not float64"),
        (np.zeros(10, ">f4"), UnsupportedError, "float32, not >f4"),
        (np.zeros(11, np.float32), ConfigurationError, r"\[10\], not \[11\]"),
        (np.zeros((2, 5), np.float32), ConfigurationError, "flatten"),
        (np.zeros(20, np.float32)[::2], UnsupportedError, "contiguous"),
    ],
)
def test_updates_of_another_kind_are_refused(update, error, message):
    encoder = Encoder(10, threshold_algorithm=HALF)
    good = np.zeros(10, np.float32)
    with pytest.raises(error, match=message):
        encoder.encode(update)
    with pytest.raises(error, match="before must"):
        encoder.encode_difference(update, good)
    with pytest.raises(error, match="after must"):
        encoder.encode_difference(good, update)


def test_the_residual_itself_is_no_update():
    encoder = Encoder(10, threshold_algorithm=HALF)
    with pytest.raises(ConfigurationError, match="give it a copy"):
        encoder.encode(encoder.residual)


@pytest.mark.parametrize(
    ("field", "value"), [("rank", -1), ("rank", 2**32), ("run_id", 2**64), ("step", -1), ("examples", 2**32)]
)
def test_a_stamp_that_no_header_can_hold_is_refused(field, value):
    with pytest.raises(ConfigurationError, match=field):
        Stamp(**{field: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 9}, "of 9 elements"),
        ({"iteration": -1}, "damaged"),
        ({"iteration": 1.5}, "damaged"),
        ({"thresholds": [0.0]}, "damaged"),
        ({"thresholds": [float("nan")]}, "damaged"),
        ({"thresholds": [1.0, 1.0]}, "2 thresholds"),
        ({"densities": [1.5]}, "damaged"),
        ({"clipped_mass": float("nan")}, "damaged"),
        ({"residual": np.full(10, np.nan, np.float32)}, "not finite"),
        ({"residual": np.zeros(9, np.float32)}, r"\[10\]"),
        ({"more": 1}, "keys"),
    ],
)
def test_a_damaged_state_is_refused_and_changes_nothing(change, message):
    encoder = Encoder(10, threshold_algorithm=HALF)
    encoder.encode(np.linspace(-1, 1, 10, dtype=np.float32))
    before = encoder.state_dict()
    with pytest.raises(ConfigurationError, match=message):
        encoder.load_state_dict(before | change)
    after = encoder.state_dict()
    assert np.array_equal(before.pop("residual"), after.pop("residual"))
    assert before == after


def test_encoders_in_four_threads_do_not_disturb_each_other():
    n = 600_000
    updates = [np.random.default_rng(rank).standard_normal(n).astype(np.float32) ** 3 for rank in range(4)]

    def work(rank):
        encoder = Encoder(
            n,
            threshold_algorithm=AdaptiveThresholdAlgorithm(),
            residual_post_processor=NoOpResidualPostProcessor() if rank % 2 else ResidualClippingPostProcessor(2.0, 2),
            num_threads=1 + rank % 3,
        )
        return [encoder.encode(updates[rank]).tobytes() for _ in range(4)] + [encoder.residual.tobytes()]

    alone = [work(rank) for rank in range(4)]
    together = [None] * 4

    def run(rank):
        together[rank] = work(rank)

    ranks = [threading.Thread(target=run, args=(rank,)) for rank in range(4)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(30)
        assert not rank.is_alive()
    assert together == alone
