"""The CUDA kernels on a real card against the CPU kernels, bit for bit, at sizes that fill it many times over."""

import numpy as np
import pytest
from numba import config, cuda

from hvdspark_kernels.clip import cpu as clip_cpu
from hvdspark_kernels.clip import cuda as clip_cuda
from hvdspark_kernels.threshold import cpu
from hvdspark_kernels.threshold import cuda as kernels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(300),
    pytest.mark.skipif(config.ENABLE_CUDASIM or not cuda.is_available(), reason="no NVIDIA GPU here"),
]
SIZES = (1, 4095, 4096, 4097, 1_000_003, 10_000_000)
DENSITIES = (0.0, 1e-4, 1e-2, 0.5, 1.0)


def same(one, other):
    assert one.dtype == other.dtype
    assert one.tobytes() == other.tobytes()


def draw(n, seed=1):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(n, dtype=np.float32) for _ in range(3)]


def draw_groups(n, groups, tau):
    ends = np.sort(np.append(np.random.default_rng(2).integers(0, n + 1, groups - 1), n)).astype(np.int64)
    taus = np.full(groups, tau, np.float32)
    return ends, taus, taus


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("density", DENSITIES)
def test_encode_equals_the_cpu_pass_after_pass(n, density):
    residual, update, other = draw(n)
    magnitudes = np.sort(np.abs(update))
    tau = max(1e-30, magnitudes[round((1 - density) * (n - 1))] if density else 1e30)
    groups = draw_groups(n, 1 if density == 1 else 161, tau)
    one, there = kernels.EncodePass(n, groups[0].size), cuda.to_device(residual)
    codes, counts = np.empty(n, np.int32), np.empty(groups[0].size, np.int64)
    for turn in range(4):
        if turn % 2:
            count, _ = cpu.encode_difference(residual, update, other, *groups, codes, counts)
            one.encode_difference(there, cuda.to_device(update), cuda.to_device(other), *groups)
        else:
            count, _ = cpu.encode(residual, update, *groups, codes, counts)
            one.encode(there, cuda.to_device(update), *groups)
        found, bad, found_counts = one.result()
        assert (found, bad) == (count, -1)
        assert np.array_equal(found_counts, counts)
        same(one.codes(count), codes[:count])
        same(there.copy_to_host(), residual)
        device_sum = kernels.sum_coded(one.device_codes, 0, count, there)
        assert device_sum == cpu.sum_coded(codes[:count], residual)


def test_a_hundred_passes_give_the_same_bytes():
    """Blocks run in another order every time."""
    n = 3_000_001
    residual, update, _ = draw(n)
    groups = draw_groups(n, 7, 2.0)
    one, given = kernels.EncodePass(n, 7), cuda.to_device(update)
    seen = set()
    for _ in range(100):
        there = cuda.to_device(residual)
        one.encode(there, given, *groups)
        count, bad, _ = one.result()
        assert bad == -1
        seen.add((one.codes(count).tobytes(), there.copy_to_host().tobytes()))
        assert len(seen) == 1


def test_what_there_is_no_room_for_stays():
    n, capacity = 1_000_003, 1000
    residual, update, _ = draw(n)
    groups = draw_groups(n, 3, 1.0)
    codes, counts = np.empty(n, np.int32), np.empty(3, np.int64)
    wanted, there = residual.copy(), cuda.to_device(residual)
    count, _ = cpu.encode(wanted, update, *groups, codes, counts)
    one = kernels.EncodePass(n, 3, capacity)
    one.encode(there, cuda.to_device(update), *groups)
    left = np.abs(codes[capacity:count]) - 1
    wanted[left] = (residual + update)[left]
    assert one.result()[:2] == (capacity, -1)
    same(one.codes(capacity), codes[:capacity])
    same(there.copy_to_host(), wanted)


def test_the_first_sum_that_is_not_finite_is_named_and_the_pass_taken_back():
    n = 1_000_003
    residual, update, _ = draw(n)
    wrong = [123_456, 123_457, 999_999]
    update[wrong] = np.nan
    there, given, groups = cuda.to_device(residual), cuda.to_device(update), draw_groups(n, 3, 1.0)
    one = kernels.EncodePass(n, 3)
    one.encode(there, given, *groups)
    assert one.result()[1] == wrong[0]
    one.undo(there, given)
    kept = there.copy_to_host()
    same(kept[wrong], residual[wrong])
    most = np.abs(residual) + np.abs(np.nan_to_num(update)) + 2
    assert np.all(np.abs(kept - residual) <= 2 * np.spacing(most))


def test_codes_are_added_as_the_cpu_does():
    n = 10_000_000
    out, update, _ = draw(n)
    runs = [np.flatnonzero(np.abs(update) > limit) + 1 for limit in (2.0, 0.5, 4.0)]
    codes = np.concatenate([np.where(update[run - 1] > 0, run, -run) for run in runs]).astype(np.int32)
    ends, values = np.cumsum([run.size for run in runs]), np.array([0.1, 1e-3, -3.0], np.float32)
    there = cuda.to_device(out)
    kernels.add_codes(cuda.to_device(codes), ends, values, there)
    cpu.add_codes(codes, ends, values, out)
    same(there.copy_to_host(), out)


def test_clipping_equals_the_cpu():
    residual, _, _ = draw(10_000_000)
    for bound in (4.0, 1.0, 0.0):
        there = cuda.to_device(residual)
        mass = clip_cuda.clip_residual(there, bound)
        assert mass == clip_cpu.clip_residual(residual, bound)
        same(there.copy_to_host(), residual)


def test_tensors_of_torch_are_taken_on_a_stream_of_their_own():
    torch = pytest.importorskip("torch")
    n = 100_003
    residual, update, _ = draw(n)
    groups = draw_groups(n, 2, 1.0)
    codes, counts = np.empty(n, np.int32), np.empty(2, np.int64)
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        there, given = torch.from_numpy(residual).cuda(), torch.from_numpy(update).cuda()
        one = kernels.EncodePass(n, 2, stream=stream.cuda_stream)
        one.encode(there, given, *groups)
        count, _, _ = one.result()
    wanted, _ = cpu.encode(residual, update, *groups, codes, counts)
    assert count == wanted
    same(one.codes(count), codes[:count])
    same(there.cpu().numpy(), residual)
