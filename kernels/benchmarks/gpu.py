"""How fast the CUDA kernels are, against the card's own memory: encode and add_codes beside what others do.

The floor of the encode is ``r += g`` by torch: it reads two arrays and writes one, 12 bytes an element. Every round
runs all contestants in alternating order on the same arrays, timed by CUDA events. A ratio is the median over rounds of
the floor's time by that of the contestant, with its 95 % interval. Only ratios can be compared between cards.

Usage: python kernels/benchmarks/gpu.py [--elements N] [--rounds K]
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from pairs import Outcome, outcome

DENSITIES = (1e-2, 1e-3, 1e-4)


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _interleave(
    contestants: dict[str, Callable[[], object]], rounds: int, prepare: Callable[[], object]
) -> dict[str, Outcome]:
    """Do what `pairs.interleave` does, by the card's own clock."""
    import torch

    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(rounds + 3):  # three that compile and warm up
        for name in names if number % 2 else reversed(names):
            prepare()
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            contestants[name]()
            end.record()
            end.synchronize()
            seconds[name].append(begin.elapsed_time(end) / 1e3)
    counted = {name: taken[3:] for name, taken in seconds.items()}
    return {name: outcome(counted[names[0]], taken) for name, taken in counted.items()}


def _encoders(elements: int, density: float) -> tuple[dict[str, Callable[[], object]], Callable[[], object]]:
    """Return the contestants of the encode, and what empties the residual before each."""
    import torch

    from hvdspark_kernels.threshold.cuda import EncodePass

    generator = torch.Generator("cuda").manual_seed(1)
    update = torch.randn(elements, device="cuda", generator=generator)
    residual, zeros, copy = (torch.zeros_like(update) for _ in range(3))
    k = max(1, round(density * elements))
    tau = float(update.abs().topk(k).values.min())

    def passes(groups: int) -> tuple[Any, ...]:
        ends = np.linspace(0, elements, groups + 1).astype(np.int64)[1:]
        taus = np.full(groups, tau, np.float32)
        return EncodePass(elements, groups), ends, taus, taus

    (one, *single), (many, *groups) = passes(1), passes(161)
    contestants: dict[str, Callable[[], object]] = {
        "r += g": lambda: residual.add_(update),
        "r += g (control)": lambda: residual.add_(update),
        "copy": lambda: copy.copy_(update),
        "encode": lambda: one.encode(residual, update, *single),
        "encode, 161 groups": lambda: many.encode(residual, update, *groups),
        "encode_difference": lambda: one.encode_difference(residual, update, zeros, *single),
        "encode, result to host": lambda: (one.encode(residual, update, *single), one.result()),
        "torch: add, abs, ge, nonzero": lambda: _torch_threshold(residual, update, tau),
        "torch: add, topk": lambda: _torch_topk(residual, update, k),
    }
    _add_cupy(contestants, residual, update, tau)
    return contestants, residual.zero_


def _torch_threshold(residual: Any, update: Any, tau: float) -> Any:
    """Do with torch what the fused pass does: the idiom of threshold compressors."""
    residual.add_(update)
    where = (residual.abs() >= tau).nonzero().squeeze(1)
    signs = residual[where].sign()
    residual.index_add_(0, where, signs, alpha=-tau)
    return (where + 1) * signs.long()


def _torch_topk(residual: Any, update: Any, k: int) -> Any:
    """Take the k largest with torch: the idiom of top-k sparsifiers."""
    residual.add_(update)
    where = residual.abs().topk(k, sorted=False).indices
    values = residual[where]
    residual[where] = 0
    return where, values


def _add_cupy(contestants: dict[str, Callable[[], object]], residual: Any, update: Any, tau: float) -> None:
    """Add CuPy's idiom where CuPy is there."""
    try:
        import cupy
    except ImportError:
        return
    kept, given = cupy.asarray(residual), cupy.asarray(update)

    def threshold() -> object:
        cupy.add(kept, given, out=kept)
        (where,) = cupy.nonzero(cupy.abs(kept) >= cupy.float32(tau))
        signs = cupy.sign(kept[where])
        kept[where] -= signs * cupy.float32(tau)
        return (where + 1) * signs

    contestants["cupy: add, abs, ge, nonzero"] = threshold


def _decoders(elements: int, density: float) -> tuple[dict[str, Callable[[], object]], Callable[[], object]]:
    """Return the contestants of the decode: four messages, added to one array; a pass over it is the floor."""
    import torch

    from hvdspark_kernels.threshold.cuda import add_codes

    generator = torch.Generator("cuda").manual_seed(1)
    out = torch.zeros(elements, device="cuda")
    wheres = [(torch.rand(elements, device="cuda", generator=generator) < density).nonzero()[:, 0] for _ in range(4)]
    codes = torch.cat([where + 1 for where in wheres]).int()
    ends = np.cumsum([where.numel() for where in wheres])
    ones = [torch.ones(where.numel(), device="cuda") for where in wheres]
    values = np.full(4, 1e-3, np.float32)

    def index_add() -> None:
        for where, one in zip(wheres, ones, strict=True):
            out.index_add_(0, where, one, alpha=1e-3)

    contestants: dict[str, Callable[[], object]] = {
        "out += 1": lambda: out.add_(1.0),
        "add_codes, 4 messages": lambda: add_codes(codes, ends, values, out),
        "torch: index_add_, 4 messages": index_add,
    }
    return contestants, out.zero_


def main() -> int:
    """Measure and write tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--elements", type=int, default=25_000_000, help="length of the arrays")
    parser.add_argument("--rounds", type=int, default=100, help="measured rounds")
    options = parser.parse_args()
    try:
        import torch

        card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    except ImportError:
        card = None
    if card is None:
        _say("no NVIDIA GPU that torch can use: nothing to measure")
        return 1
    _say(f"{card}: {options.elements:,} elements, {options.rounds} rounds")
    for part, make in (("encode", _encoders), ("decode", _decoders)):
        _say(f"\n{part}\n{'density':>8}  {'contestant':<30} {'ms':>9}  ratio to the first, 95 % interval")
        for density in DENSITIES:
            contestants, prepare = make(options.elements, density)
            for name, found in _interleave(contestants, options.rounds, prepare).items():
                ratio = f"{found.ratio:>6.3f}  [{found.low:.3f}, {found.high:.3f}]"
                _say(f"{density:>8.0e}  {name:<30} {1e3 * found.seconds:>9.4f}  {ratio}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
