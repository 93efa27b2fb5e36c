"""What is done with codes equals the reference, and never reaches outside."""

import numpy as np
import pytest

from hvdspark_kernels.threshold import codes as cpu
from hvdspark_kernels.threshold import reference


@pytest.fixture
def small_regions(monkeypatch, small_ranges):
    """Let also tiny arrays be shared by threads. (Regions are compiled in: the large test below crosses them.)"""
    monkeypatch.setattr(cpu, "_CODES", 1)


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


def test_a_bad_code_is_found_wherever_it_stands():
    """They are looked at 64 at a time: the first of a block, the last, and those behind the last whole one."""
    rng = np.random.default_rng(0)
    for case in range(2000):
        count = int(rng.integers(1, 300))
        codes = (np.cumsum(rng.integers(1, 9, count)) * rng.choice([-1, 1], count)).astype(np.int32)
        n = int(abs(codes[-1])) - (case % 5 == 0)
        if case % 4:
            other = int(codes[rng.integers(count)])
            codes[rng.integers(count)] = rng.choice([0, 1, -(2**31), 2**31 - 1, n, -n, other, -other])
        assert cpu.first_bad_code(codes, n) == reference.first_bad_code(codes, n)


def draw_runs(rng, n, runs):
    """Codes of several runs, each rising; some runs are empty."""
    parts = []
    for _ in range(runs):
        indices = np.flatnonzero(rng.random(n) < rng.choice([0.0, 0.05, 0.5, 1.0])) + 1
        parts.append(np.where(rng.random(indices.size) < 0.5, indices, -indices).astype(np.int32))
    return np.concatenate(parts), np.cumsum([part.size for part in parts])


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_codes_are_added_as_the_reference_does(small_regions, num_threads):
    rng = np.random.default_rng(3)
    for _ in range(300):
        n = int(rng.integers(1, 300))
        codes, ends = draw_runs(rng, n, int(rng.integers(1, 6)))
        values = rng.standard_normal(ends.size).astype(np.float32)
        out = rng.standard_normal(n).astype(np.float32)
        twin = out.copy()
        cpu.add_codes(codes, ends, values, out, num_threads)
        reference.add_codes(codes, ends, values, twin)
        assert out.tobytes() == twin.tobytes()


@pytest.mark.parametrize("is_dense", [True, False])
@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_every_region_and_every_density(small_regions, num_threads, is_dense):
    """Regions that are read ahead and regions that are not, and the codes at their borders."""
    n = 3 * cpu._REGION + 17
    rng = np.random.default_rng(4)
    borders = np.arange(1, 4)[:, None] * cpu._REGION + np.arange(-1, 3)
    dense = np.flatnonzero(rng.random(n) < 0.05) + 1
    middling = np.flatnonzero(rng.random(n) < 0.02) + 1
    middling = middling[(middling > cpu._REGION) & (middling < 2 * cpu._REGION)]  # after a region that asks for nothing
    sparse = np.flatnonzero(rng.random(n) < 1e-4) + 1
    chosen = (dense, sparse, sparse[:3]) if is_dense else (middling, sparse, sparse[:3])
    runs = [np.unique(np.append(part, borders)).astype(np.int32) for part in chosen]
    ends = np.cumsum([run.size for run in runs])
    values = np.array([1.0, 1e-3, -1e3], np.float32)
    out = rng.standard_normal(n).astype(np.float32)
    wanted = out.copy()
    for run, value in zip(runs, values, strict=True):
        wanted[run - 1] += value
    cpu.add_codes(np.concatenate(runs), ends, values, out, num_threads)
    assert out.tobytes() == wanted.tobytes()


def test_codes_that_nobody_checked_are_never_added_outside(small_regions):
    rng = np.random.default_rng(3)
    for case in range(200):
        n = int(rng.integers(1, 100))
        guarded = rng.standard_normal(n + 2).astype(np.float32)
        first, last = guarded[0], guarded[-1]
        codes = rng.integers(-n - 5, n + 6, 40).astype(np.int32)
        codes[case % 40] = -(2**31)
        cpu.add_codes(codes, np.array([10, 40]), np.ones(2, np.float32), guarded[1:-1], 1 + case % 3)
        assert (guarded[0], guarded[-1]) == (first, last)


def test_the_sum_of_coded_magnitudes_is_the_references():
    rng = np.random.default_rng(6)
    residual = (rng.standard_normal(30_000) * 10.0 ** rng.integers(-20, 20, 30_000)).astype(np.float32)
    for n in (0, 1, 4096, 4097, 30_000):
        codes = np.arange(1, n + 1, dtype=np.int32)
        codes[::3] *= -1
        assert cpu.sum_coded(codes, residual) == reference.sum_coded(codes, residual)


@pytest.mark.parametrize("ends", [[3], [5], [4, 3], [-1, 4]])
def test_runs_that_do_not_fit_are_refused(ends):
    codes, out = np.arange(1, 5, dtype=np.int32), np.zeros(8, np.float32)
    with pytest.raises(ValueError, match="must end in rising order at 4"):
        cpu.add_codes(codes, np.array(ends), np.ones(len(ends), np.float32), out)
    with pytest.raises(ValueError, match="2 ends, 1 values"):
        cpu.add_codes(codes, np.array([2, 4]), np.ones(1, np.float32), out)
    with pytest.raises(ValueError, match="dtypes"):
        cpu.add_codes(codes, np.array([4]), np.ones(1), out)
