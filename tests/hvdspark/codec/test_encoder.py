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
    decode_into,
    read_header,
)
from hvdspark.errors import ConfigurationError, UnsupportedError

HALF = FixedThresholdAlgorithm(0.5)
SPARSE, DENSE = 1, 2


def test_a_message_by_hand():
    encoder = Encoder(5, threshold_algorithm=HALF)
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
    message = Encoder(3, threshold_algorithm=HALF).encode(
        np.array([0, 1, 0], np.float32), Stamp(run_id=1, rank=2, step=3, examples=4)
    )
    assert bytes(message[:60]) == (
        b"HVDS" b"\x01\x00" b"\x01" b"\x00" b"\x01\0\0\0\0\0\0\0" b"\x03\0\0\0\0\0\0\0" b"\x03\0\0\0\0\0\0\0"
        b"\x01\0\0\0\0\0\0\0" b"\x04\0\0\0\0\0\0\0" b"\x02\0\0\0" b"\0\0\x00\x3f" b"\x04\0\0\0"
    )  # fmt: skip
    assert message[64:].tolist() == [2, 0, 0, 0]


def test_nothing_is_known_before_the_first_message():
    encoder = Encoder(5, threshold_algorithm=AdaptiveThresholdAlgorithm())
    assert (encoder.threshold, encoder.density, encoder.clipped_mass) == (None, None, 0.0)
    assert encoder.residual.tolist() == [0.0] * 5
    encoder.encode(np.zeros(5, np.float32))
    assert (encoder.threshold, encoder.density) == (None, 0.0)


def test_auto_sends_everything_densely_where_that_costs_no_more():
    encoder = Encoder(200, threshold_algorithm=HALF)
    update = np.full(200, 0.75, np.float32)
    message = encoder.encode(update)
    assert read_header(message).format == DENSE
    assert encoder.density == 1 / 16
    assert encoder.threshold == 0.5
    assert not encoder.residual.any()
    update[170] = 0.25
    message = encoder.encode(update)
    header = read_header(message)
    assert (header.format, header.count, header.payload_bytes) == (SPARSE, 199, 796)
    assert encoder.density == 199 / 200
    forced = Encoder(200, threshold_algorithm=HALF, format="sparse").encode(np.full(200, 0.75, np.float32))
    assert (read_header(forced).format, read_header(forced).count) == (SPARSE, 200)


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
    assert (header.format, header.count, header.tau) == (DENSE, 3, 0.0)


def test_a_change_of_format_loses_nothing():
    n = 300
    rng = np.random.default_rng(1)
    formats = ["sparse", "auto", "dense", "sparse", "dense", "auto"]
    encoder = Encoder(n, threshold_algorithm=HALF, format="sparse")
    given, out = np.zeros(n), np.zeros(n, np.float32)
    for step in range(60):
        update = rng.integers(-3, 4, n).astype(np.float32) / 4  # quarters: every sum is exact
        given += update
        decode_into([encoder.encode(update)], out)
        assert np.array_equal(out + encoder.residual, given)
        other = Encoder(n, threshold_algorithm=HALF, format=formats[step % 6])
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


def test_the_density_of_all_ranks_may_be_set():
    encoder = Encoder(100, threshold_algorithm=AdaptiveThresholdAlgorithm(0.5))
    update = np.zeros(100, np.float32)
    update[0] = 1.0
    encoder.encode(update)
    assert encoder.density == 0.01
    encoder.density = 0.5
    encoder.encode(update)
    assert 0.5 < encoder.threshold < 0.52
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ConfigurationError, match="density"):
            encoder.density = wrong


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"n": 0}, ConfigurationError, "n must be"),
        ({"n": 2**31}, ConfigurationError, "cut larger updates"),
        ({"n": 1.5}, ConfigurationError, "n must be"),
        ({"n": True}, ConfigurationError, "n must be"),
        ({"format": "zip"}, ConfigurationError, "'auto', 'sparse' or 'dense'"),
        ({"device": "cuda"}, UnsupportedError, "'cuda' is not there yet"),
        ({"threshold_algorithm": None}, ConfigurationError, "needs a threshold_algorithm"),
        ({"threshold_algorithm": 1e-3}, UnsupportedError, "ThresholdAlgorithm, not a float"),
        ({"residual_post_processor": 5.0}, UnsupportedError, "ResidualPostProcessor, not a float"),
        ({"num_threads": 0}, ConfigurationError, "num_threads"),
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
        ({"threshold": 0.0}, "damaged"),
        ({"threshold": float("nan")}, "damaged"),
        ({"density": 1.5}, "damaged"),
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
