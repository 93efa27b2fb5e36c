"""What the compilers make of the CUDA kernels, seen without a card: registers, memory traffic, no fused roundings."""

import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import nvidia
import pytest
from numba import config, cuda, types

from hvdspark_kernels import device
from hvdspark_kernels.clip import cuda as clip_cuda
from hvdspark_kernels.multiples import cuda as multiples_cuda
from hvdspark_kernels.threshold import cuda as kernels
from hvdspark_kernels.threshold import cuda_codes, tile

pytestmark = [
    pytest.mark.exhaustive,
    pytest.mark.skipif(config.ENABLE_CUDASIM, reason="the simulator compiles nothing"),
]

KINDS = (types.float32, types.int32, types.int64, types.float64, types.uint8)
F32, I32, I64, F64, U8 = (types.Array(kind, 1, "C") for kind in KINDS)
LONG = types.int64
ENCODE = (F32, F32, F32, I64, F32, F32, I32, I64, I64, I64)
TILES = kernels.TILES
KERNELS = {
    "encode": (TILES.encode, ENCODE),
    "encode_difference": (TILES.encode_difference, ENCODE),
    "encode_accumulated": (TILES.encode_accumulated, ENCODE),
    "add_codes": (cuda_codes._add_codes, (I32, I32, LONG, LONG, I64, F32, F32)),
    "add_multiples": (cuda_codes._add_multiples, (I32, U8, LONG, LONG, I64, F32, F32)),
    "take_multiples": (multiples_cuda._take, (I32, I64, F32, F32, U8)),
    "sum_coded": (cuda_codes._sum_coded, (I32, LONG, LONG, F32, F64)),
    "gather": (cuda_codes._gather, (F32, F32, F32, I64, F32)),
    "gather_difference": (cuda_codes._gather_difference, (F32, F32, F32, I64, F32)),
    "take_back": (cuda_codes.take_back, (F32, F32, F32)),
    "take_back_difference": (cuda_codes.take_back_difference, (F32, F32, F32)),
    "clip": (clip_cuda.CLIP.kernel, (F32, types.float32, F64)),
}
TOOLS = [path / "cu13" / "bin" for path in map(Path, nvidia.__path__)]
SHARED = {"8.0": 164, "9.0": 228, "10.0": 228}  # KiB of a multiprocessor; one more a block is the system's


def tool(name):
    """The path of a tool from NVIDIA's wheels."""
    found = [str(folder / name) for folder in TOOLS if (folder / name).exists()]
    return found[0] if found else pytest.skip(f"no {name}: pip install nvidia-cuda-{name.replace('ptxas', 'nvcc')}")


@pytest.fixture(scope="module", params=[(8, 0), (9, 0), (10, 0)], ids=lambda capability: "sm_{}{}".format(*capability))
def compiled(request, tmp_path_factory):
    """By kernel: its PTX, what ptxas says of it, and its machine code."""
    capability, folder = request.param, tmp_path_factory.mktemp("ptx")
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        present = SimpleNamespace(compute_capability=capability)
        patch.setattr("numba.cuda.dispatcher.get_current_device", lambda: present)  # there is none
        for name, (kernel, arguments) in KERNELS.items():
            bounds = (device.THREADS, device.BLOCKS)
            ptx, _ = cuda.compile_ptx(kernel.py_func, types.void(*arguments), cc=capability, launch_bounds=bounds)
            source, binary = folder / f"{name}.ptx", folder / f"{name}.cubin"
            source.write_text(ptx)
            architecture = "-arch=sm_{}{}".format(*capability)
            said = run(tool("ptxas"), "-v", architecture, source, "-o", binary).stderr
            found[name] = SimpleNamespace(ptx=ptx, said=said, code=run(tool("nvdisasm"), binary).stdout)
    return SimpleNamespace(capability="{}.{}".format(*capability), kernels=found)


def run(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)


def count(pattern, text):
    return len(re.findall(pattern, text))


def test_registers_leave_every_multiprocessor_full(compiled):
    for name, made in compiled.kernels.items():
        registers = int(re.search(r"Used (\d+) registers", made.said).group(1))
        assert registers <= 65536 // (device.THREADS * device.BLOCKS), name
        shared = re.search(r"(\d+) bytes smem", made.said)
        kib = 1 + int(shared.group(1)) / 1024 if shared else 1
        few = name in ("sum_coded", "clip")  # a chunk a block: there are fewer blocks than places for them
        assert few or kib * device.BLOCKS <= SHARED[compiled.capability], name


def test_nothing_is_spilled_or_kept_in_local_memory(compiled):
    for name, made in compiled.kernels.items():
        assert "0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads" in made.said, (name, made.said)
        assert not count(r"\b(ld|st)\.local", made.ptx), name
        assert not count(r"\b(LDL|STL)\b", made.code), name


def blocks_of(code):
    """Cut machine code into stretches without a branch or a label."""
    blocks = [[]]
    for line in code.splitlines():
        found = re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?);", line)
        if line.startswith(".L") or (found and re.search(r"\b(BRA|EXIT|BSYNC|RET|BAR)\b", found[1])):
            blocks.append([])
        elif found:
            blocks[-1].append(found[1])
    return ["\n".join(block) for block in blocks]


@pytest.mark.parametrize(("name", "arrays"), [("encode", 2), ("encode_difference", 3), ("encode_accumulated", 1)])
def test_encode_reads_and_writes_each_element_once(compiled, name, arrays):
    """12 bytes an element, 16 for a difference, 4 for neither: a second look at any array would show here."""
    writes, elements = name != "encode_accumulated", TILES.size // TILES.threads
    blocks = blocks_of(compiled.kernels[name].code)
    traffic = sorted(((count(r"\bLDG\.E ", block), count(r"\bSTG\.E ", block)) for block in blocks), reverse=True)
    assert traffic[0] == (elements * arrays + 1, elements * writes), "all of a tile, and its threshold"
    # Then there are the loop for tiles that are not whole, with a threshold for each element, and the sending of a
    # code: residual, threshold and step in, residual and code out.
    assert [sum(kind) for kind in zip(*traffic[1:], strict=True)] == [arrays + 1 + 3, writes + 2]
    assert not count(r"\b(ld|st)\.global(?:\.\w+)*\.v\d", compiled.kernels[name].ptx)


def test_all_items_of_a_thread_are_asked_for_before_the_first_is_used(compiled):
    lines = compiled.kernels["encode"].code.splitlines()
    order = "".join("L" if "LDG.E " in line else "+" if "FADD" in line else "" for line in lines)
    assert "L" * 2 * tile.ITEMS in order


def test_no_product_is_fused_with_a_sum(compiled):
    for name, made in compiled.kernels.items():
        assert not count(r"\bfma\.|\bmul(\.\w+)*\.f(32|64)", made.ptx), name
        assert not count(r"\b(FFMA|DFMA|FMUL|DMUL)\b", made.code), name


def test_the_word_of_another_tile_is_read_at_each_turn_of_the_loop_that_waits_for_it(compiled):
    """The simulator runs blocks one after the other and never waits: a load taken out of the loop shows only here."""
    block = r"(?:[^$\n][^\n]*\n)*?"  # lines without a label
    turn = (
        rf"(\$L__BB\w+):[^\n]*\n{block}[^\n]*\bld\.relaxed\.gpu\.global\.b64[^\n]*\n{block}[^\n]*\bbra(?:\.uni)?\s+\1;"
    )
    for name in ("encode", "encode_difference"):
        assert re.search(turn, compiled.kernels[name].ptx), name
        assert count(r"\bLDG\.E\.64\.STRONG\.GPU\b", compiled.kernels[name].code), name
    for name, made in compiled.kernels.items():
        assert not count(r"(\$L__BB\w+):\s*\n\s*bra(?:\.uni)?\s+\1;", made.ptx), f"{name} has a loop without an end"


def test_the_small_tiles_of_other_tests_are_refused_where_marks_do_not_fit():
    with pytest.raises(ValueError, match="32 elements"):
        tile.make_tiles(items=8, batches=5)
    with pytest.raises(ValueError, match="window"):
        tile.make_tiles(threads=32, window=64)
    assert np.int64(tile.FIRST_TICKET) == tile.FIRST_TICKET
