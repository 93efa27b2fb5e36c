"""Clipping equals the reference bit for bit, and its account of what was thrown away is right."""

import numpy as np
import pytest

from hvdspark_kernels.clip import cpu, reference


def test_cpu_equals_reference_mass_included(small_ranges):
    rng = np.random.default_rng(1)
    for case in range(400):
        n = int(rng.integers(0, 400))
        residual = (rng.standard_normal(n) * rng.choice([1e-40, 0.01, 1.0, 1e30])).astype(np.float32)
        residual[rng.random(n) < 0.1] = 0.5
        twin = residual.copy()
        bound = [0.0, 0.5, 1.0][case % 3]
        mass = cpu.clip_residual(residual, bound, 1 + case % 3)
        assert mass == reference.clip_residual(twin, bound)
        assert residual.tobytes() == twin.tobytes()


def test_removed_plus_kept_is_what_was(small_ranges, monkeypatch):
    n = 3 * reference.CHUNK + 17
    before = np.random.default_rng(2).standard_normal(n).astype(np.float32)
    masses = set()
    for num_threads in (1, 2, 3):
        residual = before.copy()
        masses.add(cpu.clip_residual(residual, 1.5, num_threads))
        assert np.array_equal(residual, np.clip(before, -1.5, 1.5))
    assert len(masses) == 1, "the mass depends on the number of threads"
    removed = np.abs(before.astype(np.float64) - residual).sum()
    assert masses.pop() == pytest.approx(removed, rel=1e-12)


def test_nothing_to_clip_costs_nothing():
    residual = np.array([1.0, -1.0, 0.5], np.float32)
    assert cpu.clip_residual(residual, 1.0) == 0.0
    assert residual.tolist() == [1.0, -1.0, 0.5]


@pytest.mark.parametrize("bound", [-1.0, float("nan")])
def test_a_bound_below_zero_is_refused(bound):
    with pytest.raises(ValueError, match="at least zero"):
        cpu.clip_residual(np.zeros(3, np.float32), bound)
