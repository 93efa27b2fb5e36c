"""Run by test_cuda.py in a process of its own: CUDA kernels in Numba's simulator against the reference, bit for bit."""

import sys
from pathlib import Path

import numpy as np
from numba import cuda

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from contracts import simulator
from hvdspark_kernels.clip import cuda as clip_cuda
from hvdspark_kernels.clip import reference as clip_reference
from hvdspark_kernels.multiples import cuda as multiples_cuda
from hvdspark_kernels.multiples import reference as multiples_reference
from hvdspark_kernels.threshold import cuda as kernels
from hvdspark_kernels.threshold import reference, tile

SMALL = tile.make_tiles(threads=4, items=2, batches=2, window=2)  # 16 elements: 96 make six tiles, three windows
WIDE = tile.make_tiles(threads=4, items=8, batches=4, window=4)  # 128: marks in several words
SIZES = (0, 1, 2, 15, 16, 17, 31, 32, 33, 64, 95, 96)


def same(one, other):
    assert one.dtype == other.dtype, (one.dtype, other.dtype)
    assert one.tobytes() == other.tobytes(), (one, other)


def draw(rng, n):
    """Residual and update with ties, zeros of both signs, denormals and sums just beside the threshold."""
    special = np.array([0.5, -0.5, np.nextafter(0.5, 0), 1.0, -1.0, 0.0, -0.0, 1e-40, 1e30, -1e30], np.float32)
    residual, update = (rng.standard_normal(n).astype(np.float32) * np.float32(0.6) for _ in range(2))
    update = np.where(rng.random(n) < 0.3, rng.choice(special, n), update)
    return np.where(rng.random(n) < 0.3, np.float32(0), residual).astype(np.float32), update.astype(np.float32)


def draw_groups(rng, n):
    groups = int(rng.integers(1, 5))
    ends = np.sort(np.append(rng.integers(0, n + 1, groups - 1), n)).astype(np.int64)
    taus = rng.choice(np.array([0.25, 0.5, 1.0], np.float32), groups)
    return ends, taus, taus * rng.choice(np.array([0, 1], np.float32), groups)


def check_encode(rng, case):
    """Two passes of one object: nothing of the first is left for the second."""
    n = int(rng.choice(SIZES))
    groups = draw_groups(rng, n)
    one = kernels.EncodePass(n, groups[0].size, tiles=WIDE if case % 8 == 0 else SMALL)
    residual = draw(rng, n)[0]
    there = cuda.to_device(residual)
    for _ in range(2):
        update, after = draw(rng, n)
        codes, counts = np.empty(n, np.int32), np.empty(groups[0].size, np.int64)
        if case % 5 == 4:
            count, _ = reference.encode_accumulated(residual, *groups, codes, counts)
            one.encode_accumulated(there, *groups)
        elif case % 2:
            count, _ = reference.encode_difference(residual, update, after, *groups, codes, counts)
            one.encode_difference(there, cuda.to_device(update), cuda.to_device(after), *groups)
        else:
            count, _ = reference.encode(residual, update, *groups, codes, counts)
            one.encode(there, cuda.to_device(update), *groups)
        found, bad, found_counts = one.result()
        assert (found, bad) == (count, -1)
        assert found_counts.tolist() == counts.tolist()
        same(one.codes(count), codes[:count])
        same(there.copy_to_host(), residual)


def check_capacity(rng, case):
    """What there is no room for stays in the residual, whole."""
    n = int(rng.choice(SIZES[4:]))
    groups, (residual, update) = draw_groups(rng, n), draw(rng, n)
    codes, counts = np.empty(n, np.int32), np.empty(groups[0].size, np.int64)
    wanted, there = residual.copy(), cuda.to_device(residual)
    count, _ = reference.encode(wanted, update, *groups, codes, counts)
    capacity = int(rng.integers(0, count + 1))
    one = kernels.EncodePass(n, groups[0].size, capacity, tiles=SMALL)
    one.encode(there, cuda.to_device(update), *groups)
    left = np.abs(codes[capacity:count]) - 1
    wanted[left] = (residual + update)[left]
    found, bad, found_counts = one.result()
    assert (found, bad) == (capacity, -1)
    before = np.minimum(np.cumsum(counts), capacity)
    assert np.cumsum(found_counts).tolist() == before.tolist()
    same(one.codes(capacity), codes[:capacity])
    same(there.copy_to_host(), wanted)


def check_not_finite(rng, case):
    """The first of them is named, none is written, and the rest can be taken back."""
    n = int(rng.choice(SIZES[1:]))
    groups, (residual, update) = draw_groups(rng, n), draw(rng, n)
    update[np.abs(update) > 1e3] = 1.0  # beside a sum of 1e30 nothing of the residual would be left
    wrong = np.unique(rng.integers(0, n, 3))
    update[wrong] = rng.choice(np.array([np.nan, np.inf, -np.inf], np.float32), wrong.size)
    zeros = cuda.to_device(np.zeros(n, np.float32))
    there, given = cuda.to_device(residual), cuda.to_device(update)
    one = kernels.EncodePass(n, groups[0].size, tiles=SMALL)
    if case % 2:
        one.encode_difference(there, given, zeros, *groups)
    else:
        one.encode(there, given, *groups)
    assert one.result()[1] == wrong[0]
    same(there.copy_to_host()[wrong], residual[wrong])
    if case % 2:
        one.undo_difference(there, given, zeros)
    else:
        one.undo(there, given)
    kept = there.copy_to_host()
    same(kept[wrong], residual[wrong])
    most = np.abs(residual) + np.abs(np.where(np.isfinite(update), update, 0)) + 5
    assert np.all(np.abs(kept - residual) <= 2 * np.spacing(most))
    one.encode(there, zeros, *groups)
    assert one.result()[1] == -1, "the next pass starts afresh"


def check_overflow(_rng, _case):
    """Sums that are nearly not finite are told from those that are not: both are as they were."""
    large = np.float32(2e38)  # twice this is not finite
    residual = np.array([0, 1, large / 4, -large / 4, large / 4, 0.5], np.float32)
    update = np.array([large, -large, large, -large, 3e38, np.nan], np.float32)
    one, ends, levels = kernels.EncodePass(6, tiles=SMALL), np.array([6]), np.full(1, 1e38, np.float32)
    there = cuda.to_device(residual)
    one.encode(there, cuda.to_device(update), ends, levels, levels)
    assert one.result()[1] == 4
    one.undo(there, cuda.to_device(update))
    same(there.copy_to_host()[4:], residual[4:])
    assert np.all(np.abs(there.copy_to_host()[:4] - residual[:4]) <= 2 * np.spacing(large))
    spoilt = np.array([1.0, np.inf, 2.0, 0.25, -1.0, 0.0], np.float32)
    there, levels = cuda.to_device(spoilt), np.ones(1, np.float32)
    one.encode_accumulated(there, ends, levels, levels)
    assert one.result()[:2] == (3, 1)
    one.undo_accumulated(there)
    same(there.copy_to_host(), spoilt)


def check_look_back(rng, case):
    """Some tiles know what stands before them, the others only what they have themselves."""
    number, tiles, window = 7, int(rng.integers(1, 14)), int(rng.integers(1, 5))
    counts = rng.integers(0, 4, tiles)
    known = rng.random(tiles) < 0.2
    words = (number << 32) | np.where(known, (1 << 31) | np.cumsum(counts), counts)
    status, found = cuda.to_device(words), cuda.to_device(np.full(window, -1))
    look_back = tile.make_look_back(window)

    @cuda.jit
    def ask(status, found):
        nearest = cuda.shared.array(1, np.int32)
        total = cuda.shared.array(1, np.int32)
        found[cuda.threadIdx.x] = look_back(status, status.size, number, nearest, total, cuda.threadIdx.x)

    ask[1, window](status, found)
    assert found.copy_to_host().tolist() == [counts.sum()] * window


def check_codes(rng, case):
    """Adding codes, summing what they left, looking at elements."""
    n = int(rng.integers(1, 97))
    runs = [np.flatnonzero(rng.random(n) < rng.choice([0.0, 0.1, 1.0])) + 1 for _ in range(3)]
    codes = np.concatenate([np.where(rng.random(run.size) < 0.5, run, -run) for run in runs]).astype(np.int32)
    ends = np.cumsum([run.size for run in runs])
    values, (out, update) = rng.standard_normal(3).astype(np.float32), draw(rng, n)
    there, sent, where = cuda.to_device(out), cuda.to_device(codes), rng.integers(0, n, 5)
    gathered = kernels.gather_totals(there, cuda.to_device(update), there if case % 2 else None, where)
    same(gathered, (out + (update - out if case % 2 else update))[where])
    assert kernels.sum_coded(sent, int(ends[0]), codes.size, there) == reference.sum_coded(codes[ends[0] :], out)
    kernels.add_codes(sent, ends, values, there)
    reference.add_codes(codes, ends, values, out)
    same(there.copy_to_host(), out)


def check_messages(rng, case):
    """Several runs a message are one launch; what lies outside is left alone."""
    codes = np.array([1, -3, 5, -1, 2, 99, -(2**31), 0], np.int32)
    ends, values = np.array([2, 3, 8]), rng.standard_normal(3).astype(np.float32)
    out = rng.standard_normal(6).astype(np.float32)
    there = cuda.to_device(out)
    kernels.add_codes(cuda.to_device(codes), ends, values, there, np.array([0, 3]))
    reference.add_codes(codes[:5], ends, values, out)
    same(there.copy_to_host(), out)


def check_multiples(rng, case):
    """Taken off coded elements, and added to others: multiples that nobody checked read nothing outside."""
    n = int(rng.integers(1, 97))
    where = np.flatnonzero(rng.random(n) < rng.choice([0.0, 0.2, 1.0]))
    ends = np.sort(np.append(rng.integers(0, where.size + 1, 2), where.size)).astype(np.int64)
    taus = rng.choice(np.array([1e-40, 0.25, 1.0, 2.0**127], np.float32), 3)
    residual = draw(rng, n)[0]
    per_code = np.repeat(taus, np.diff(ends, prepend=0))
    sizes = np.maximum(per_code, np.float32(rng.choice([0.5, 3.0, 3e38])) * rng.random(where.size).astype(np.float32))
    signs = rng.choice(np.array([-1, 1]), where.size)
    residual[where] = sizes * signs
    codes, there = (signs * (where + 1)).astype(np.int32), cuda.to_device(residual)
    wanted = np.empty(codes.size, np.uint8)
    multiples_reference.take(codes, ends, taus, residual, wanted)
    found = multiples_cuda.take(cuda.to_device(codes), ends, taus, there)
    same(found, wanted)
    same(there.copy_to_host(), residual)
    values = rng.standard_normal((3, 8)).astype(np.float32)
    kernels.add_codes(cuda.to_device(codes), ends, values, there, np.zeros(1, np.int64), multiples=found)
    reference.add_codes(codes, ends, values, residual, found)
    same(there.copy_to_host(), residual)
    spoilt = rng.integers(0, 256, codes.size).astype(np.uint8)
    kernels.add_codes(cuda.to_device(codes), ends, values, there, np.zeros(1, np.int64), multiples=spoilt)
    assert np.all(np.abs(there.copy_to_host() - residual) <= np.abs(values).max() + np.spacing(np.abs(residual)))


def check_clip(rng, case):
    n, bound = int(rng.integers(0, 97)), float(rng.choice([0.0, 0.5, 1.0]))
    residual = (rng.standard_normal(n) * rng.choice([1e-40, 0.01, 1.0, 1e30])).astype(np.float32)
    residual[rng.random(n) < 0.1] = rng.choice(np.array([0.5, np.inf, np.nan], np.float32))
    there = cuda.to_device(residual)
    mass = clip_cuda.clip_residual(there, bound, clip=CLIP)
    same(np.float64(mass), np.float64(clip_reference.clip_residual(residual, bound)))
    same(there.copy_to_host(), residual)


clip_reference.CHUNK = 40
CLIP = clip_cuda.make_clip(threads=4, items=5, chunk=40)  # spans of 20, marks in one word; chunks of two spans

if __name__ == "__main__":
    simulator.prepare()
    generator = np.random.default_rng(1)
    cases = {
        check_encode: 50,
        check_capacity: 24,
        check_not_finite: 20,
        check_overflow: 1,
        check_look_back: 120,
        check_codes: 20,
        check_messages: 2,
        check_multiples: 30,
        check_clip: 80,
    }
    with np.errstate(all="ignore"):
        for check, number in cases.items():
            for index in range(number):
                check(generator, index)
    print(sum(cases.values()), "done")
