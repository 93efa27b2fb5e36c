"""The bitmap: there and back, the reference's bytes, and never outside, whatever the bytes are."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hvdspark_kernels.ternary import cpu, reference


def draw(rng, n, density):
    indices = np.flatnonzero(rng.random(n) < density) + 1
    return (indices * rng.choice([-1, 1], indices.size)).astype(np.int32)


def written(codes, n):
    payload = np.full(cpu.size(n), 77, np.uint8)
    cpu.write(codes, n, payload)
    return payload


@pytest.mark.parametrize("n", [*range(1, 13), 99, 100, 1000])
def test_there_and_back_in_the_references_bytes(n):
    rng = np.random.default_rng(n)
    for density in (0.0, 0.1, 0.6, 1.0):
        codes = draw(rng, n, density)
        payload = written(codes, n)
        wanted = np.empty(reference.size(n), np.uint8)
        reference.write(codes, n, wanted)
        assert payload.tobytes() == wanted.tobytes()
        guarded = np.full(codes.size + 2, 99, np.int32)
        assert cpu.read(payload, n, guarded[1:-1]) == codes.size == reference.read(payload, n, np.empty_like(codes))
        assert np.array_equal(guarded[1:-1], codes)
        assert (guarded[0], guarded[-1]) == (99, 99)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from([-1, 0, 1]), max_size=200))
def test_any_elements(elements):
    signs = np.array(elements, np.int32)
    codes = (signs * np.arange(1, signs.size + 1, dtype=np.int32))[signs != 0]
    payload = written(codes, signs.size)
    found = np.empty_like(codes)
    assert cpu.read(payload, signs.size, found) == codes.size
    assert np.array_equal(found, codes)


def test_a_large_bitmap_that_may_not_be_written():
    rng = np.random.default_rng(4)
    for density in (0.05, 0.6, 1.0):
        codes = draw(rng, 1_000_003, density)
        payload = written(codes, 1_000_003)
        payload.flags.writeable = False
        found = np.empty_like(codes)
        assert cpu.read(payload, 1_000_003, found) == codes.size
        assert np.array_equal(found, codes)


def test_a_byte_by_hand():
    assert written(np.array([1, -3, 5], np.int32), 5).tolist() == [1 + 2 * 9 + 81]


@pytest.mark.parametrize(
    ("payload", "n", "count"),
    [
        ([243], 5, 5),  # means nothing
        ([255], 5, 5),
        ([242, 242], 7, 10),  # elements behind the last
        ([81], 4, 1),
        ([1], 5, 0),  # more elements than codes, and fewer
        ([1], 5, 2),
        ([], 5, 0),  # too few bytes, and too many
        ([0, 0], 5, 0),
    ],
)
def test_bytes_that_nobody_writes_are_refused(payload, n, count):
    assert cpu.read(np.array(payload, np.uint8), n, np.empty(count, np.int32)) != count


def test_what_is_read_from_wrong_bytes_is_what_would_be_written():
    rng = np.random.default_rng(1)
    n = 203
    payload = written(draw(rng, n, 0.7), n)
    accepted = 0
    for case in range(20_000):
        changed = payload.copy()
        changed[rng.integers(changed.size)] = rng.integers(256)
        if case % 3 == 0:
            changed = changed[: rng.integers(changed.size)]
        count = int(np.count_nonzero(np.unpackbits(changed))) if case % 5 else 140
        guarded = np.full(count + 16, 99, np.int32)
        found = guarded[8:-8]
        if cpu.read(changed, n, found) == count:
            accepted += 1
            assert written(found.copy(), n).tobytes() == changed.tobytes()
        assert (guarded[:8] == 99).all()
        assert (guarded[-8:] == 99).all()
    assert accepted < 2000


def test_the_reference_finds_the_same_fault():
    rng = np.random.default_rng(2)
    for case in range(1500):
        n = int(rng.integers(1, 60))
        codes = draw(rng, n, 0.6)
        payload = written(codes, n)
        payload[rng.integers(payload.size)] = rng.integers(256)
        payload = payload[: payload.size - (case % 7 == 0)]
        count = codes.size + (case % 3 == 0)
        found, wanted = np.full(count, 99, np.int32), np.full(count, 99, np.int32)
        good = cpu.read(payload, n, found)
        assert good == reference.read(payload, n, wanted)
        if good == count:
            assert np.array_equal(found, wanted)


def test_nothing_behind_the_memory_is_touched():
    """Payload and codes end where the memory ends: a read or write behind it kills the process."""
    script = """
import ctypes, mmap
import numpy as np
from hvdspark_kernels.ternary import cpu
def room(pages):
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    end = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + pages * mmap.PAGESIZE
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(end), mmap.PAGESIZE, 0) == 0
    return np.frombuffer(memory, np.uint8)[: pages * mmap.PAGESIZE]
bytes_, elements = room(1), room(4)
rng = np.random.default_rng(1)
for n in [*range(1, 60), 997, 1000, 4001]:
    payload = bytes_[bytes_.size - cpu.size(n) :]
    indices = np.flatnonzero(rng.random(n) < 0.7) + 1
    codes = elements[elements.size - 4 * indices.size :].view(np.int32)
    cpu.write((indices * rng.choice([-1, 1], indices.size)).astype(np.int32), n, payload)
    assert cpu.read(payload, n, codes) == codes.size
    for _ in range(20):
        payload[:] = rng.integers(0, 243, payload.size)
        for count in (0, 1, n // 2, n):
            cpu.read(payload, n, elements[elements.size - 4 * count :].view(np.int32))
    cpu.write(rng.integers(-(2**31), 2**31, 50).astype(np.int32), n, payload)
print("alive")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=55)
    assert done.stdout == "alive\n", (done.returncode, done.stderr)


def test_codes_that_are_not_contiguous_are_refused():
    for bad in (np.zeros(10, np.int32)[::2], np.zeros(5), np.zeros((5, 1), np.int32)):
        with pytest.raises(ValueError, match="contiguous int32"):
            cpu.read(np.full(1, 121, np.uint8), 5, bad)


def test_a_payload_of_another_size_is_refused():
    with pytest.raises(ValueError, match="20 bytes, not 19"):
        cpu.write(np.array([1], np.int32), 100, np.empty(19, np.uint8))
