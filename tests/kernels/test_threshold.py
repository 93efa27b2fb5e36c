"""The compiled encode pass equals the reference bit for bit, whatever the length, values, groups and threads."""

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


def draw_groups(rng, n, tau):
    """Ends, thresholds and steps of up to four groups, some of them empty."""
    groups = int(rng.integers(1, 5))
    ends = np.sort(np.append(rng.integers(0, n + 1, groups - 1), n)).astype(np.int64)
    taus = np.full(groups, tau, np.float32) * rng.choice(np.array([1, 2, 4], np.float32), groups)
    return ends, taus, taus * rng.choice(np.array([0, 1], np.float32), groups)


def one_group(n, tau):
    taus = np.array([tau], np.float32)
    return np.array([n]), taus, taus


def encoded(module, residual, arrays, groups, **options):
    """Run one encode on a copy; return residual, codes, counts and the first index that is not finite."""
    kept, codes = residual.copy(), np.full(residual.size, 77, np.int32)
    counts = np.full(groups[0].size, 77)
    run = (module.encode_accumulated, module.encode, module.encode_difference)[len(arrays)]
    count, bad = run(kept, *arrays, *groups, codes, counts, **options)
    return kept, codes[:count].copy(), counts, bad


def agree(residual, arrays, groups, num_threads):
    wanted, wanted_codes, wanted_counts, wanted_bad = encoded(reference, residual, arrays, groups)
    kept, codes, counts, bad = encoded(cpu, residual, arrays, groups, num_threads=num_threads)
    assert (bad, wanted_bad) == (-1, -1)
    assert same_bits(kept, wanted)
    assert same_bits(codes, wanted_codes)
    assert counts.tolist() == wanted_counts.tolist()
    return kept, codes


def test_cpu_equals_reference_on_thousands_of_cases(small_ranges):
    rng = np.random.default_rng(1)
    for case in range(3000):
        n = int(rng.integers(1, 20)) if case % 4 else int(rng.choice([63, 64, 65, 127, 128, 200, 257, 1100]))
        tau = np.float32(rng.choice([1e-12, 1e-3, 0.1, 1.0, 1e20]))
        residual, update = draw(rng, n, tau)
        arrays = ((), (update,), (update, draw(rng, n, tau)[1]))[case % 5 % 3]
        agree(residual, arrays, draw_groups(rng, n, tau), 1 + case % 3)


@pytest.mark.parametrize("num_threads", [1, 2, 3])
@pytest.mark.parametrize("n", [64 * 3, 64 * 7 + 5, 64 * 16, 64 * 25 + 63])
def test_every_element_coded_and_none_coded(small_ranges, n, num_threads):
    ones = np.ones(n, np.float32)
    kept, codes = agree(np.zeros(n, np.float32), (ones,), one_group(n, 0.5), num_threads)
    assert np.array_equal(codes, np.arange(1, n + 1))
    assert np.array_equal(kept, ones / 2)
    kept, codes = agree(np.zeros(n, np.float32), (ones,), one_group(n, 2.0), num_threads)
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
    groups = one_group(update.size, tau)
    kept, codes = agree(zero, (update,), groups, 1)
    sent = np.zeros_like(update)
    cpu.add_codes(codes, np.array([codes.size]), groups[1], sent)
    wanted = update.astype(np.float64)
    exact = np.abs(wanted) <= 2 * tau
    total = sent.astype(np.float64) + kept
    assert np.array_equal(total[exact], wanted[exact])
    assert np.all(np.abs(total - wanted) <= np.spacing(np.abs(update)))
    mirrored, opposite = agree(zero, (-update,), groups, 1)
    assert np.array_equal(opposite, -codes)
    assert np.array_equal(mirrored, -kept)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_what_is_not_finite_is_found_and_all_is_taken_back(small_ranges, value, num_threads):
    rng = np.random.default_rng(5)
    for n in (1, 64, 300, 2000):
        for bad in {0, n // 2, n - 1}:
            residual, update = draw(rng, n, np.float32(0.5))
            update[np.abs(update) > 1e3] = 1.0  # beside a sum of 1e30 nothing of the residual would be left
            update[bad] = value
            for second in (None, rng.standard_normal(n).astype(np.float32)):
                arrays = (update,) if second is None else (update, second)
                kept, codes, _, found = encoded(
                    cpu, residual, arrays, draw_groups(rng, n, 0.5), num_threads=num_threads
                )
                assert (found, codes.size) == (bad, 0)
                assert kept[bad] == residual[bad]
                most = np.abs(residual) + np.abs(np.where(np.isfinite(update), update, 0)) + 5
                assert np.all(np.abs(kept - residual) <= 2 * np.spacing(most))
                if num_threads == 1:
                    assert same_bits(kept[bad:], residual[bad:]), "what comes later has not been touched"


def test_the_first_of_several_that_are_not_finite_is_named(small_ranges):
    for num_threads in (1, 2, 3):
        update = np.zeros(1000, np.float32)
        update[[77, 500, 999]] = np.nan
        groups = one_group(1000, 1.0)
        assert encoded(cpu, np.zeros(1000, np.float32), (update,), groups, num_threads=num_threads)[3] == 77


def test_unchecked_arrays_are_refused():
    good, codes, counts = np.zeros(8, np.float32), np.zeros(8, np.int32), np.zeros(1, np.int64)
    groups = one_group(8, 1.0)
    for update in (np.zeros(8), np.zeros(9, np.float32), np.zeros(16, np.float32)[::2], np.zeros((8, 1), np.float32)):
        with pytest.raises(ValueError, match="contiguous float32"):
            cpu.encode(good, update, *groups, codes, counts)
        with pytest.raises(ValueError, match="contiguous float32"):
            cpu.encode_difference(good, good.copy(), update, *groups, codes, counts)
    for tau in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="tau must be above zero"):
            cpu.encode(good, good.copy(), groups[0], np.array([tau], np.float32), groups[2], codes, counts)
        if tau:
            with pytest.raises(ValueError, match="steps"):
                cpu.encode(good, good.copy(), *groups[:2], np.array([tau], np.float32), codes, counts)
    with pytest.raises(ValueError, match="codes must hold 8"):
        cpu.encode(good, good.copy(), *groups, codes[:7], counts)
    for ends in ([7], [9], [], [8, 8], [-1, 8], [8, 3, 8]):
        wrong = np.array(ends, np.int64)
        many = np.ones(wrong.size, np.float32)
        if wrong.size == 2 and ends == [8, 8]:
            many = many[:1]  # a group without a threshold
        with pytest.raises(ValueError, match="group"):
            cpu.encode(good, good.copy(), wrong, many, many, codes, np.zeros(wrong.size, np.int64))
