"""Rice codes: there and back, the reference's bytes, near the entropy, and never outside, whatever the bytes are."""

import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvdspark_kernels.rice import cpu, reference
from hvdspark_kernels.rice.scalar import CHUNK, ESCAPE, MAX_PARAMETER, ROW, chunk_of

LARGEST = 2**31 - 1


def draw(rng, count, density):
    """Codes at indices drawn independently."""
    gaps = rng.geometric(density, count) if density < 1 else np.ones(count, np.int64)
    magnitudes = np.cumsum(gaps)
    return (magnitudes * rng.choice([-1, 1], count)).astype(np.int32)


def written(codes, parameter, **options):
    payload = np.full(reference._size(codes, parameter), 77, np.uint8)
    cpu.write(codes, parameter, payload, **options)
    return payload


def check(codes, parameter, num_threads=1):
    """Write and read; return the payload."""
    payload = written(codes, parameter, num_threads=num_threads)
    n = abs(int(codes[-1])) if codes.size else 1
    guarded = np.full(codes.size + 2, 99, np.int32)
    assert cpu.read(payload, parameter, n, guarded[1:-1], num_threads) == codes.size
    assert np.array_equal(guarded[1:-1], codes)
    assert (guarded[0], guarded[-1]) == (99, 99)
    if codes.size:
        assert cpu.read(payload, parameter, n - 1, guarded[1:-1]) < codes.size, "an index beyond n was accepted"
    return payload


@settings(deadline=None)
@given(st.integers(1, 2**31 - 1))
def test_a_list_is_cut_into_few_chunks_of_about_one_length(count):
    size = chunk_of(count)
    chunks = -(-count // size)
    assert size <= CHUNK
    assert size % ROW == 0
    assert chunks == -(-count // CHUNK)
    assert chunks == 1 or size - count / chunks < ROW


@pytest.mark.parametrize("density", [1.0, 0.5, 1e-2, 1e-4])
@pytest.mark.parametrize("count", [0, 1, 2, 63, 64, 65, 66, CHUNK - 1, CHUNK, CHUNK + 1, 4 * CHUNK, 5 * CHUNK + 3])
def test_there_and_back_in_the_references_bytes(count, density):
    codes = draw(np.random.default_rng(count), count, density)
    for parameter in {cpu.best_size(codes)[0], 0, 7, MAX_PARAMETER}:
        payload = check(codes, parameter)
        if count < 2 * CHUNK:
            wanted = np.empty_like(payload)
            reference.write(codes, parameter, wanted)
            assert payload.tobytes() == wanted.tobytes()
            again = np.empty_like(codes)
            assert reference.read(payload, parameter, LARGEST, again) == count
            assert np.array_equal(again, codes)


@pytest.mark.parametrize(
    "codes",
    [
        [LARGEST],
        [-LARGEST],
        [1, -LARGEST],
        [1, 2, 3, LARGEST - 1, -LARGEST],
        [*range(1, 70), 10**9, *range(10**9 + 1, 10**9 + 200), LARGEST],
        [k * 2**24 for k in range(1, 128)],  # 64 of these gaps come near to what 32 bits hold
        [k * (2**25 + 5) for k in range(1, 64)],
        [*range(1, 5000), 2 * 10**9, *range(2 * 10**9 + 1, 2 * 10**9 + 5000)],
        [ESCAPE, 2 * ESCAPE + 1, 3 * ESCAPE, 4 * ESCAPE - 1],
    ],
    ids=lambda codes: f"{len(codes)} codes",
)
def test_gaps_of_any_size(codes):
    codes = np.array(codes, np.int32)
    for parameter in (0, 1, 5, 20, MAX_PARAMETER):
        payload = check(codes, parameter)
        if codes.size < 1000:
            wanted = np.empty_like(payload)
            reference.write(codes, parameter, wanted)
            assert payload.tobytes() == wanted.tobytes()


MAGNITUDES = st.lists(st.one_of(st.integers(1, 300), st.integers(1, LARGEST)), unique=True, max_size=150).map(sorted)


@settings(max_examples=200, deadline=None)
@given(MAGNITUDES, st.integers(0, 2**150 - 1), st.integers(0, MAX_PARAMETER))
def test_any_codes_with_any_parameter(magnitudes, signs, parameter):
    codes = np.array([-m if signs >> place & 1 else m for place, m in enumerate(magnitudes)], np.int32)
    payload = check(codes, parameter)
    wanted, again = np.empty_like(payload), np.empty_like(codes)
    reference.write(codes, parameter, wanted)
    assert payload.tobytes() == wanted.tobytes()
    assert reference.read(payload, parameter, LARGEST, again) == codes.size
    assert np.array_equal(again, codes)
    assert cpu.best_size(codes) == reference.best_size(codes)
    assert codes.size <= cpu.most_codes(payload.size, parameter)


@pytest.mark.parametrize("num_threads", [2, 3, 7])
def test_threads_change_nothing(small_ranges, monkeypatch, num_threads):
    monkeypatch.setattr(cpu, "_CHUNKS", 1)
    for count in (CHUNK, CHUNK + 1, 9 * CHUNK + 5, 14 * CHUNK):
        codes = draw(np.random.default_rng(count), count, 0.01)
        assert check(codes, 6, num_threads).tobytes() == check(codes, 6, 1).tobytes()


def shapes(rng):
    """Codes that are not drawn independently."""
    yield draw(rng, 2000, 0.01)
    yield np.unique(rng.integers(1, 10**6, 2000) ** 2 % 10**6 + 1).astype(np.int32)
    yield np.cumsum(np.minimum(rng.pareto(0.7, 2000) + 1, 10**6)).astype(np.int64).clip(1, LARGEST).astype(np.int32)
    bursts = np.cumsum(rng.integers(1, 50_000, 100))[:, None] + np.arange(20)
    yield np.unique(bursts).astype(np.int32)
    yield np.cumsum(np.repeat([1, 5000], 1000)).astype(np.int32)
    yield np.cumsum(np.tile([1, 30_000], 1000)).astype(np.int32)


def test_the_size_is_exact_and_near_the_best_of_all_parameters():
    for drawn in shapes(np.random.default_rng(1)):
        codes = np.unique(np.abs(drawn))
        parameter, size = cpu.best_size(codes)
        assert size == reference._size(codes, parameter)
        assert size <= 1.002 * reference.best_size(codes)[1] + 8


def sizes_of(codes):
    """Return the size with every parameter."""
    gaps = np.diff(np.abs(codes.astype(np.int64)), prepend=0) - 1
    starts = np.arange(0, codes.size, chunk_of(codes.size))
    sizes = []
    for parameter in range(MAX_PARAMETER + 1):
        quotients = gaps >> parameter
        bits = np.where(quotients < ESCAPE, quotients + parameter + 2, ESCAPE + 31 + 2)
        sizes.append(8 * (starts.size - 1) + int(8 * (-(-np.add.reduceat(bits, starts) // 64)).sum()))
    return sizes


def mixtures(rng, count):
    """Long lists of gaps, most of which no single parameter suits: some of them are written raw with the best one."""
    for small, large, share in [(0, 20, 0.5), (0, 20, 0.1), (0, 20, 0.01), (2, 15, 0.3), (5, 11, 0.5), (3, 18, 0.02)]:
        exponents = np.where(rng.random(count) < share, large, small)
        for order in (exponents, np.sort(exponents), np.repeat(exponents[::16], 16)[:count]):
            gaps = rng.geometric(2.0**-order)
            magnitudes = np.cumsum(gaps)
            yield magnitudes[magnitudes <= LARGEST].astype(np.int32)


def test_no_other_parameter_is_better():
    rng = np.random.default_rng(5)
    for count in (30, CHUNK, CHUNK + 1, 3 * CHUNK, 11 * CHUNK + 77):
        for codes in [*mixtures(rng, count), *(draw(rng, count, p) for p in (1.0, 0.5, 0.1, 1e-2, 1e-3))]:
            sizes = sizes_of(codes)
            parameter, size = cpu.best_size(codes)
            assert size == sizes[parameter]
            if codes.size <= CHUNK:
                assert parameter == int(np.argmin(sizes))
            assert size <= 1.002 * min(sizes), (count, parameter, sizes)


@pytest.mark.parametrize("period", [2, 3, 4, 5, 8, 16, 64, 768, CHUNK, CHUNK + 1])
def test_periodic_gaps_are_sampled_fairly(period):
    """Every k-th gap of them says nothing of the others."""
    for chunks in (2, 4, 16):
        gaps = np.where(np.arange(chunks * CHUNK) % period, 1 << 9, 1)
        codes = np.cumsum(gaps).astype(np.int32)
        assert cpu.best_size(codes)[1] <= 1.002 * min(sizes_of(codes))


@pytest.mark.parametrize("density", [1e-2, 1e-3, 1e-4])
@pytest.mark.parametrize("count", [5_000, 10_000, 100_000])
def test_within_two_percent_of_the_entropy(count, density):
    for seed in range(2):
        rng = np.random.default_rng(seed)
        n = round(count / density)
        indices = np.unique(rng.integers(1, n + 1, count + count * count // (2 * n)))
        codes = (indices * rng.choice([-1, 1], indices.size)).astype(np.int32)
        p = codes.size / n
        bound = n * -(p * math.log2(p) + (1 - p) * math.log2(1 - p)) + codes.size
        assert 8 * (64 + cpu.best_size(codes)[1]) <= 1.02 * bound


def mutations(rng, payload, number):
    for case in range(number):
        changed = payload.copy()
        place = int(rng.integers(changed.size))
        kind = case % 6
        if kind == 0:
            changed[place] ^= 1 << rng.integers(8)
        elif kind == 1:
            changed = changed[: place // 8 * 8]
        elif kind == 2:
            changed = np.append(changed, rng.integers(0, 256, 8 * int(rng.integers(1, 3))).astype(np.uint8))
        elif kind == 3:
            changed[place : place + 8] = rng.integers(0, 256, changed[place : place + 8].size)
        elif kind == 4:
            changed[place:] = 0 if case % 4 else 255
        else:
            changed[: rng.integers(1, 17)] = rng.integers(0, 256)  # the table, where there is one
        yield changed


@pytest.mark.parametrize(
    ("count", "parameter", "number"),
    [(3, 2, 4000), (40, 6, 8000), (200, 0, 4000), (CHUNK + 40, 6, 2000), (6 * CHUNK, 3, 600)],
)
def test_what_is_read_from_wrong_bytes_is_what_would_be_written(count, parameter, number):
    """Refused, or the one payload of other codes; the memory around the codes is left alone."""
    rng = np.random.default_rng(count)
    codes = draw(rng, count, 0.02)
    payload = written(codes, parameter)
    accepted = 0
    for changed in mutations(rng, payload, number):
        room = count + int(rng.integers(-1, 2)) if rng.random() < 0.2 else count
        guarded = np.full(room + 64, 99, np.int32)
        found = guarded[32:-32]
        good = cpu.read(changed, parameter, 10**6, found, 1)
        assert (guarded[:32] == 99).all()
        assert (guarded[-32:] == 99).all()
        if good == room:
            accepted += 1
            assert (np.diff(np.abs(found.astype(np.int64)), prepend=0) > 0).all()
            assert written(found.copy(), parameter).tobytes() == changed.tobytes()
    assert accepted < number / 2


@pytest.mark.parametrize(
    ("count", "parameter", "number"),
    [(3, 1, 600), (70, 30, 600), (150, 0, 600), (CHUNK + 40, 6, 36), (5 * CHUNK, 4, 12)],
)
def test_the_reference_finds_the_same_fault(small_ranges, monkeypatch, count, parameter, number):
    monkeypatch.setattr(cpu, "_CHUNKS", 1)
    rng = np.random.default_rng(count)
    payload = written(draw(rng, count, 0.02), parameter)
    for case, changed in enumerate(mutations(rng, payload, number)):
        found, wanted = np.full(count, 99, np.int32), np.full(count, 99, np.int32)
        good = reference.read(changed, parameter, 10**6, wanted)
        assert cpu.read(changed, parameter, 10**6, found, 1 + case % 3) == good
        assert np.array_equal(found[: max(good, 0)], wanted[: max(good, 0)])


@pytest.mark.parametrize("count", [1, 63, 64, 65])
@pytest.mark.parametrize("parameter", [0, 10, 29, 30])
def test_gaps_that_no_code_has_are_refused(count, parameter):
    """In 32 bits some of them would look like small ones."""
    codes = np.arange(1, count + 1, dtype=np.int32)
    for place in {0, count // 2, count - 1}:
        for unary, low in [(4, 0), (3, 5), (2, 0), (ESCAPE, 0), (ESCAPE, (ESCAPE << parameter) - 1), (ESCAPE + 1, 0)]:
            width = parameter if unary < ESCAPE else 31
            if unary < ESCAPE and unary << parameter < LARGEST:
                continue
            parts = [(1, parameter + 2)] * place + [((low << 1 | 1) << unary, unary + width + 2)]
            parts += [(1, parameter + 2)] * (count - place - 1)
            payload = packed(parts)
            assert cpu.read(payload, parameter, LARGEST, codes.copy()) == 0
            assert reference.read(payload, parameter, LARGEST, codes.copy()) == 0


def packed(parts):
    """Bits one after the other, each a number and how many of its bits."""
    stream, length = 0, 0
    for bits, width in parts:
        stream |= (bits & (1 << width) - 1) << length
        length += width
    return np.frombuffer(stream.to_bytes(-(-length // 64) * 8, "little"), np.uint8)


def test_arrays_that_are_not_contiguous_are_refused():
    codes = draw(np.random.default_rng(1), 100, 0.1)
    payload = written(codes, 3)
    for bad in (codes[::-1], codes.astype(np.int64), np.zeros((2, 50), np.int32)):
        with pytest.raises(ValueError, match="contiguous int32"):
            cpu.read(payload, 3, LARGEST, bad)
        with pytest.raises(ValueError, match="contiguous int32"):
            cpu.write(bad, 3, payload.copy())
    with pytest.raises(ValueError, match="contiguous uint8"):
        cpu.read(payload[::-1], 3, LARGEST, codes)


def test_wrong_parameters_counts_and_bounds_are_refused():
    codes = draw(np.random.default_rng(1), 2 * CHUNK + 5, 0.01)
    payload = written(codes, 6)
    room = np.empty_like(codes)
    for parameter in (-1, 0, 5, 7, 30, 31, 255):
        assert cpu.read(payload, parameter, LARGEST, room) < codes.size
    for count in (0, 1, CHUNK, codes.size - 1, codes.size + 1, 3 * CHUNK + 1):
        assert cpu.read(payload, 6, LARGEST, np.empty(count, np.int32)) != count
    assert cpu.read(payload[:-1], 6, LARGEST, room) == 0
    assert cpu.read(np.empty(0, np.uint8), 6, LARGEST, np.empty(0, np.int32)) == 0


def test_a_payload_of_another_size_is_refused_and_nothing_is_written_behind_it():
    codes = draw(np.random.default_rng(2), 5000, 0.01)
    size = reference._size(codes, 6)
    guarded = np.full(size + 128, 77, np.uint8)
    for wrong in (8, 16, size - 8, size + 8):
        with pytest.raises(ValueError, match="bytes"):
            cpu.write(codes, 6, guarded[64 : 64 + wrong])
        assert (guarded[:64] == 77).all()
        assert (guarded[64 + wrong :] == 77).all()
    with pytest.raises(ValueError, match="cannot be written"):
        cpu.write(codes[:10], 6, guarded[:0])


def test_nothing_behind_the_payload_is_read():
    """The payload ends where the memory ends: a read behind it kills the process."""
    script = """
import ctypes, mmap
import numpy as np
from hvdspark_kernels.rice import cpu, reference
page = mmap.PAGESIZE
memory = mmap.mmap(-1, 65 * page)
base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(base + 64 * page), page, 0) == 0
rng = np.random.default_rng(1)
room = np.frombuffer(memory, np.uint8)[: 64 * page]
for count in [1, 5, 64, 100, 4096, 4160, 4 * 4096, 4 * 4096 + 70]:
    magnitudes = np.cumsum(rng.geometric(0.02, count))
    codes = (magnitudes * rng.choice([-1, 1], count)).astype(np.int32)
    for parameter in (0, 5, 20):
        size = reference._size(codes, parameter)
        if size > room.size:
            continue
        payload = room[room.size - size :]
        cpu.write(codes, parameter, payload, 1)
        assert cpu.read(payload, parameter, 2**31 - 1, np.empty_like(codes), 1) == count
        for _ in range(30):
            payload[:] = rng.integers(0, 256, size)
            payload[: 8 * (count // 4096)] = np.array([1, 2**32 - 1] * (count // 4096), np.uint32).view(np.uint8)
            cpu.read(payload, parameter, 2**31 - 1, np.empty_like(codes), 1)
            payload[-64:] = 0
            cpu.read(payload, parameter, 2**31 - 1, np.empty_like(codes), 1)
room[:] = 0
for bits in range(128, 192):  # a block of good codes, then one whose unary parts never end
    gaps = np.zeros(64, np.int64)
    gaps[:8] = np.diff((bits - 128) * np.arange(9) // 8)
    head = np.empty(-(-bits // 64) * 8, np.uint8)
    cpu.write((np.cumsum(gaps + 1)).astype(np.int32), 0, head, 1)
    for size in range(400, 520, 8):
        payload = room[room.size - size :]
        payload[: head.size] = head
        for count in (64, 128, 3 * 64, 4096):
            cpu.read(payload, 0, 2**31 - 1, np.empty(count, np.int32), 1)
        payload[:] = 0
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=55)
    assert done.stdout == "alive\n", (done.returncode, done.stderr)
