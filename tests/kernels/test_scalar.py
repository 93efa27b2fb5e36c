"""The maths of one element against independent float64 maths, on random, tied and special values."""

import numpy as np
import pytest

from hvdspark_kernels.jit import jit
from hvdspark_kernels.threshold import scalar

SPECIAL = np.array(
    [0.0, -0.0, 1e-45, -1e-45, 1e-40, 1.0, -1.0, 1e30, 3.4028235e38, -3.4028235e38, np.inf, -np.inf, np.nan],
    np.float32,
)  # fmt: skip
COUNT = 100_000


@pytest.fixture(scope="module")
def compiled():
    """The functions as kernels compile them, over arrays."""
    quantise, outside = jit(scalar.quantise), jit(scalar.outside)

    @jit
    def run(totals, taus, steps, signs, kept, found):
        for i in range(totals.size):
            signs[i], kept[i] = quantise(totals[i], taus[i], steps[i])
            found[i] = outside(totals[i], taus[i])

    return run


def draw():
    rng = np.random.default_rng(1)
    exponents = rng.integers(-40, 38, COUNT)
    taus = (rng.uniform(1, 10, COUNT) * 10.0**exponents).astype(np.float32)
    totals = (taus * rng.standard_normal(COUNT) * 2).astype(np.float32)
    ties = rng.choice(np.array([1, -1, 2, -2], np.float32), COUNT) * taus
    beside = np.nextafter(ties, rng.choice(np.array([0, 1, -1], np.float32), COUNT))
    kind = rng.random(COUNT)
    totals = np.select([kind < 0.2, kind < 0.4, kind < 0.6], [ties, beside, rng.choice(SPECIAL, COUNT)], totals)
    return totals.astype(np.float32), taus, taus * rng.choice(np.array([0, 0.5, 1], np.float32), COUNT)


def expected(totals, taus, steps):
    """Signs, and what is kept: the exact difference, rounded once (float64 holds it, or rounds it to the same)."""
    wide, limit = totals.astype(np.float64), taus.astype(np.float64)
    signs = np.where(wide >= limit, 1, np.where(wide <= -limit, -1, 0))
    with np.errstate(all="ignore"):
        return signs, np.where(signs != 0, (wide - signs * steps.astype(np.float64)).astype(np.float32), totals)


def test_compiled_and_plain_functions_do_what_float64_says(compiled):
    with np.errstate(all="ignore"):
        totals, taus, steps = draw()
    signs, kept, found = np.empty(COUNT, np.int64), np.empty(COUNT, np.float32), np.empty(COUNT, np.bool_)
    compiled(totals, taus, steps, signs, kept, found)
    wanted_signs, wanted = expected(totals, taus, steps)
    assert np.array_equal(signs, wanted_signs)
    numbers = ~np.isnan(wanted)
    assert kept[numbers].tobytes() == wanted[numbers].tobytes()
    assert np.isnan(kept[~numbers]).all()
    assert np.array_equal(found, ~(np.abs(totals.astype(np.float64)) < taus.astype(np.float64)))
    with np.errstate(all="ignore"):
        for i in range(0, COUNT, 50):  # the functions themselves, as the reference runs them
            sign, rest = scalar.quantise(totals[i], taus[i], steps[i])
            assert (sign, np.float32(rest).tobytes()) == (signs[i], kept[i].tobytes()) or np.isnan(rest)
            assert scalar.outside(totals[i], taus[i]) == found[i]


def test_what_is_not_finite_is_outside_whatever_the_limit():
    for value in (np.nan, np.inf, -np.inf):
        for limit in (1.0, 3.4028235e38, np.inf):
            assert scalar.outside(np.float32(value), np.float32(limit))
    assert not scalar.outside(np.float32(3.4028235e38), np.float32(np.inf))
