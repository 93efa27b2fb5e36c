"""The compiled kernels equal the reference bit for bit, whatever the length, the values and the number of threads."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvdspark_kernels.threshold import cpu, reference

TINY = np.float32(1e-40)  # a denormal number


def same_bits(one, other):
    return one.dtype == other.dtype and one.tobytes() == other.tobytes()


def draw(rng, n, tau):
    """A residual and an update full of hard cases: ties, sums just beside tau, zeros of both signs, denormals."""
    scale = rng.choice([0.3, 1.0, 3.0])
    residual = (rng.standard_normal(n) * scale * tau).astype(np.float32)
    update = (rng.standard_normal(n) * scale * tau).astype(np.float32)
    special = np.array(
        [tau, -tau, np.nextafter(tau, np.float32(0)), 2 * tau, -2 * tau, 0.0, -0.0, TINY, -TINY, 1e30, -1e30],
        np.float32,
    )
    place = rng.random(n)
    update = np.where(place < 0.3, rng.choice(special, n), update)
    residual = np.where(place < 0.2, np.float32(0), residual)
    return residual.astype(np.float32), update.astype(np.float32)


def encoded(module, residual, arrays, tau, **options):
    """Run one encode on a copy; return residual, codes and the first index that is not finite."""
    kept, codes = residual.copy(), np.full(residual.size, 77, np.int32)
    run = module.encode if len(arrays) == 1 else module.encode_difference
    count, bad = run(kept, *arrays, tau, codes, **options)
    return kept, codes[:count].copy(), bad


def agree(residual, arrays, tau, num_threads):
    wanted, wanted_codes, wanted_bad = encoded(reference, residual, arrays, tau)
    kept, codes, bad = encoded(cpu, residual, arrays, tau, num_threads=num_threads)
    assert same_bits(kept, wanted)
    assert same_bits(codes, wanted_codes)
    assert bad == wanted_bad
    return kept, codes


def test_cpu_equals_reference_on_thousands_of_cases(small_ranges):
    rng = np.random.default_rng(1)
    for case in range(3000):
        n = int(rng.integers(1, 20)) if case % 4 else int(rng.choice([63, 64, 65, 127, 128, 200, 257]))
        tau = np.float32(rng.choice([1e-12, 1e-3, 0.1, 1.0, 1e20]))
        residual, update = draw(rng, n, tau)
        arrays = (update,) if case % 2 else (update, draw(rng, n, tau)[1])
        agree(residual, arrays, tau, 1 + case % 3)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("n", [64 * 3, 64 * 7 + 5, 1000])
def test_every_element_coded_and_none_coded(small_ranges, n, num_threads):
    ones = np.ones(n, np.float32)
    kept, codes = agree(np.zeros(n, np.float32), (ones,), np.float32(0.5), num_threads)
    assert np.array_equal(codes, np.arange(1, n + 1))
    assert np.array_equal(kept, ones / 2)
    kept, codes = agree(np.zeros(n, np.float32), (ones,), np.float32(2.0), num_threads)
    assert codes.size == 0
    assert np.array_equal(kept, ones)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-(2.0**100), max_value=2.0**100),
        min_size=1,
    ),
    st.floats(width=32, min_value=2.0**-39, max_value=2.0**60),
)
def test_nothing_is_lost_and_no_sign_is_preferred(update, tau):
    update = np.array(update, np.float32)
    zero = np.zeros_like(update)
    kept, codes = agree(zero, (update,), tau, 1)
    sent = np.zeros_like(update)
    cpu.add_codes(codes, tau, sent)
    wanted = update.astype(np.float64)
    exact = np.abs(wanted) <= 2 * tau
    total = sent.astype(np.float64) + kept
    assert np.array_equal(total[exact], wanted[exact])
    assert np.all(np.abs(total - wanted) <= np.spacing(np.abs(update)))
    mirrored, opposite = agree(zero, (-update,), tau, 1)
    assert np.array_equal(opposite, -codes)
    assert np.array_equal(mirrored, -kept)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_what_is_not_finite_is_never_coded(small_ranges, value, num_threads):
    for n in (1, 64, 300):
        for bad in {0, n // 2, n - 1}:
            residual = np.zeros(n, np.float32)
            residual[bad] = value
            update = np.full(n, 3.0, np.float32)
            _, codes = agree(residual, (update,), np.float32(1.0), num_threads)
            assert bad + 1 not in np.abs(codes)
            assert encoded(cpu, residual, (update,), np.float32(1.0))[2] == bad


def test_the_search_finds_the_first_element_outside(small_ranges):
    rng = np.random.default_rng(2)
    for case in range(600):
        n = int(rng.integers(1, 300))
        values, other = (rng.standard_normal(n).astype(np.float32) for _ in range(2))
        for place in rng.integers(0, n, case % 3):
            values[place] = rng.choice([np.nan, np.inf, -np.inf, 1e30, 8.0])
        limit = [8.0, 1e20, math.inf][case % 3]
        threads = 1 + case % 3
        assert cpu.first_outside(values, limit, threads) == reference.first_outside(values, limit)
        assert cpu.first_outside_difference(other, values, limit, threads) == reference.first_outside_difference(
            other, values, limit
        )


@pytest.mark.parametrize(
    ("codes", "place"),
    [
        ([], -1),
        ([1], -1),
        ([-1, 2, -5], -1),
        ([0], 0),
        ([6], 0),
        ([1, 1], 1),
        ([1, -1], 1),
        ([3, 2], 1),
        ([-(2**31)], 0),
    ],
)
def test_bad_codes_are_found(codes, place):
    codes = np.array(codes, np.int32)
    assert cpu.first_bad_code(codes, 5) == reference.first_bad_code(codes, 5) == place


def test_codes_are_added_and_never_outside():
    rng = np.random.default_rng(3)
    for _ in range(200):
        n = int(rng.integers(1, 100))
        out = rng.standard_normal(n + 2).astype(np.float32)
        twin = out.copy()
        codes = rng.integers(-n - 5, n + 6, 40).astype(np.int32)
        codes[0] = -(2**31)
        cpu.add_codes(codes, 0.3, out[1:-1])
        reference.add_codes(codes, 0.3, twin[1:-1])
        assert same_bits(out, twin)


def test_unchecked_arrays_are_refused():
    good, codes = np.zeros(8, np.float32), np.zeros(8, np.int32)
    for update in (np.zeros(8), np.zeros(9, np.float32), np.zeros(16, np.float32)[::2], np.zeros((8, 1), np.float32)):
        with pytest.raises(ValueError, match="contiguous float32"):
            cpu.encode(good, update, 1.0, codes)
        with pytest.raises(ValueError, match="contiguous float32"):
            cpu.first_outside_difference(good, update, 1.0)
    for tau in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="tau must be above zero"):
            cpu.encode(good, good.copy(), tau, codes)
    with pytest.raises(ValueError, match="codes must hold 8"):
        cpu.encode(good, good.copy(), 1.0, codes[:7])
