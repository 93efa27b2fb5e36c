"""Multiples of the threshold: taken off as the reference does, by exact maths; packed and unpacked."""

from fractions import Fraction

import numpy as np
import pytest

from hvdspark_kernels.multiples import cpu, reference, scalar
from hvdspark_kernels.threshold import codes as adding
from hvdspark_kernels.threshold import reference as threshold_reference

LARGEST = float(np.finfo(np.float32).max)


@pytest.fixture
def small_ranges(monkeypatch):
    """Let also a few codes be shared by threads."""
    monkeypatch.setattr(cpu, "_CODES", 1)
    monkeypatch.setattr(adding, "_CODES", 1)


def bfloat16(values):
    return (np.asarray(values, np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)


def draw(rng, count):
    """Thresholds of eight significant bits, and totals at, just below and just above multiples of them."""
    taus = bfloat16(rng.uniform(1, 10, count) * 10.0 ** rng.integers(-44, 38, count))
    taus = np.where(taus == 0, bfloat16(1e-40), taus)  # a subnormal number
    with np.errstate(over="ignore"):
        near = (taus * rng.integers(1, 12, count)).astype(np.float32)
        beside = np.nextafter(near, rng.choice(np.array([0, np.inf], np.float32), count))
        beyond = (np.abs(rng.standard_cauchy(count)) * taus).astype(np.float32)
    kind = rng.random(count)
    totals = np.select([kind < 0.3, kind < 0.6, kind < 0.9], [near, beside, beyond], np.float32(LARGEST))
    totals = np.maximum(np.where(np.isfinite(totals), totals, np.float32(LARGEST)), taus)
    return (totals * rng.choice([-1, 1], count)).astype(np.float32), taus.astype(np.float32)


def test_the_multiple_is_that_of_exact_maths():
    totals, taus = draw(np.random.default_rng(1), 20_000)
    with np.errstate(over="ignore"):
        for total, tau in zip(totals, taus, strict=True):
            multiple, kept = scalar.split(total, tau)
            exact, unit = Fraction(float(total)), Fraction(float(tau))
            assert multiple == min(abs(exact) // unit, 8)
            rest = exact - multiple * unit if total > 0 else exact + multiple * unit
            assert kept.dtype == np.float32
            assert float(kept) == float(np.float32(float(rest))) or abs(float(kept) - rest) <= np.spacing(abs(kept)) / 2
            assert kept == 0 or np.sign(kept) == np.sign(total)


def draw_codes(rng, n):
    """Codes of several groups, some of them empty, with the elements that they are of."""
    groups = int(rng.integers(1, 5))
    indices = np.flatnonzero(rng.random(n) < rng.choice([0.0, 0.1, 0.7, 1.0])) + 1
    ends = np.sort(np.append(rng.integers(0, indices.size + 1, groups - 1), indices.size)).astype(np.int64)
    taus = bfloat16(10.0 ** rng.uniform(-3, 1, groups))
    residual = rng.standard_normal(n).astype(np.float32)
    per_code = np.repeat(taus, np.diff(ends, prepend=0))
    sizes = per_code * (1 + np.abs(rng.standard_cauchy(indices.size))) * rng.choice([-1, 1], indices.size)
    residual[indices - 1] = sizes
    return (np.sign(sizes) * indices).astype(np.int32), ends, taus.astype(np.float32), residual


@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_multiples_are_taken_and_added_back_as_the_reference_does(small_ranges, num_threads):
    rng = np.random.default_rng(2)
    for _ in range(200):
        codes, ends, taus, residual = draw_codes(rng, int(rng.integers(1, 300)))
        before, twin = residual.copy(), residual.copy()
        multiples, wanted = (np.full(codes.size, 77, np.uint8) for _ in range(2))
        cpu.take(codes, ends, taus, residual, multiples, num_threads)
        reference.take(codes, ends, taus, twin, wanted)
        assert residual.tobytes() == twin.tobytes()
        assert multiples.tobytes() == wanted.tobytes()
        values = np.multiply.outer(taus, np.arange(1, 9)).astype(np.float32)
        adding.add_codes(codes, ends, values, residual, num_threads, multiples)
        threshold_reference.add_codes(codes, ends, values, twin, multiples)
        assert residual.tobytes() == twin.tobytes()
        np.testing.assert_allclose(residual, before, rtol=3e-7)


@pytest.mark.parametrize("density", [1e-4, 0.05])
def test_multiples_are_added_in_every_region(small_ranges, density):
    """Regions that are read ahead and regions that are not; two messages, on one thread and on two."""
    n = 3 * adding._REGION + 17
    rng = np.random.default_rng(3)
    runs = [(np.flatnonzero(rng.random(n) < density) + 1).astype(np.int32) for _ in range(2)]
    found = [rng.integers(1, 9, run.size).astype(np.uint8) for run in runs]
    values = np.multiply.outer(np.array([1e-3, 0.75]), np.arange(1, 9)).astype(np.float32)
    start = rng.standard_normal(n).astype(np.float32)
    wanted = start.copy()
    for run, multiples, row in zip(runs, found, values, strict=True):
        wanted[run - 1] += row[multiples - 1]
    for num_threads in (1, 2):
        out = start.copy()
        ends = np.cumsum([run.size for run in runs])
        adding.add_codes(np.concatenate(runs), ends, values, out, num_threads, np.concatenate(found))
        assert out.tobytes() == wanted.tobytes()


def test_what_nobody_checked_reads_and_writes_nothing_outside(small_ranges):
    rng = np.random.default_rng(4)
    for case in range(200):
        n = int(rng.integers(1, 100))
        guarded = rng.standard_normal(n + 2).astype(np.float32)
        first, last = guarded[0], guarded[-1]
        codes = rng.integers(-n - 5, n + 6, 40).astype(np.int32)
        codes[case % 40] = -(2**31)
        multiples = rng.integers(0, 256, 40).astype(np.uint8)
        out = guarded[1:-1]
        values = np.full((4, 8), 1e9, np.float32)
        values[1:3] = 1.0
        adding.add_codes(codes, np.array([10, 40]), values[1:3], out, 1 + case % 3, multiples)
        assert np.abs(out).max() < 1e9
        cpu.take(codes, np.array([10, 40]), np.ones(2, np.float32), out, multiples, 1 + case % 3)
        assert (guarded[0], guarded[-1]) == (first, last)


@pytest.mark.parametrize("count", [*range(20), 1000, 4097])
def test_packing_is_the_references_and_comes_back(count):
    rng = np.random.default_rng(count)
    multiples = rng.integers(1, 9, count).astype(np.uint8)
    size = cpu.packed_bytes(count)
    assert size == -(-3 * count // 8)
    area, wanted = np.full(size + 2, 0xA5, np.uint8), np.empty(size, np.uint8)
    cpu.write(multiples, area[1:-1])
    reference.write(multiples, wanted)
    assert area[1:-1].tobytes() == wanted.tobytes()
    assert (area[0], area[-1]) == (0xA5, 0xA5)
    for read in (cpu.read, reference.read):
        found = np.full(count + 2, 77, np.uint8)
        read(wanted, found[1:-1])
        assert np.array_equal(found[1:-1], multiples)
        assert (found[0], found[-1]) == (77, 77)


def test_any_bytes_are_read_as_multiples():
    rng = np.random.default_rng(5)
    for count in (1, 7, 8, 9, 100):
        payload = rng.integers(0, 256, cpu.packed_bytes(count)).astype(np.uint8)
        found, wanted = np.empty(count, np.uint8), np.empty(count, np.uint8)
        cpu.read(payload, found)
        reference.read(payload, wanted)
        assert np.array_equal(found, wanted)
        assert set(found.tolist()) <= set(range(1, 9))


def test_arrays_that_do_not_fit_are_refused():
    codes, ends = np.arange(1, 5, dtype=np.int32), np.array([4])
    one, out, found = np.ones(1, np.float32), np.zeros(8, np.float32), np.ones(4, np.uint8)
    with pytest.raises(ValueError, match="one multiple a code"):
        cpu.take(codes, ends, one, out, found[:3])
    for wrong in ([3], [5], [4, 3], [-1, 4]):
        with pytest.raises(ValueError, match="must end in rising order at 4"):
            cpu.take(codes, np.array(wrong), np.ones(len(wrong), np.float32), out, found)
    with pytest.raises(ValueError, match="1 ends, 1 values"):
        adding.add_codes(codes, ends, one, out, 1, found)
    with pytest.raises(ValueError, match="3 multiples of uint8 do not fit 4 codes"):
        adding.add_codes(codes, ends, np.ones((1, 8), np.float32), out, 1, found[:3])
    with pytest.raises(ValueError, match="take 2 bytes, not 1"):
        cpu.write(found, np.zeros(1, np.uint8))
    with pytest.raises(ValueError, match="take 2 bytes, not 3"):
        cpu.read(np.zeros(3, np.uint8), found)
