"""Encoding: the kernel, the whole encoder, and what others do, against ``r += g`` of the same run."""

from collections.abc import Callable
from typing import Any

import floor
import numpy as np
import torch
from numpy.typing import NDArray
from pairs import Outcome, interleave

from hvdspark.codec import Encoder, FixedThresholdAlgorithm
from hvdspark_kernels.threshold import cpu

__all__ = ["measure"]


def measure(elements: int, rounds: int, num_threads: int, density: float, *, rivals: bool) -> dict[str, Outcome]:
    """Time one encode of so many elements, of which this share is sent."""
    torch.set_num_threads(num_threads)
    update = np.random.default_rng(1).standard_normal(elements, dtype=np.float32)
    zeros, residual, accumulated = np.zeros_like(update), np.zeros_like(update), update.copy()
    tau = floor.threshold_of(update, density)
    encoder = Encoder(elements, threshold_algorithm=FixedThresholdAlgorithm(tau), num_threads=num_threads)
    contestants: dict[str, Callable[[], object]] = {
        "r += g": lambda: floor.add(residual, update, num_threads),
        "r += g (control)": lambda: floor.add(residual, update, num_threads),
        "encode": _kernel(cpu.encode, residual, [update], 1, tau, num_threads),
        "encode, 161 groups": _kernel(cpu.encode, residual, [update], 161, tau, num_threads),
        "encode_difference": _kernel(cpu.encode_difference, residual, [update, zeros], 1, tau, num_threads),
        "encode_accumulated": _kernel(cpu.encode_accumulated, accumulated, [], 1, tau, num_threads),
        "Encoder.encode": lambda: encoder.encode(update),
    }
    if rivals:
        contestants["numpy: add, abs, nonzero"] = lambda: _numpy(residual, update, np.float32(tau))
        tensors = torch.from_numpy(residual), torch.from_numpy(update)
        contestants["torch: add, abs, ge, nonzero"] = lambda: _torch_threshold(*tensors, tau)
        contestants["torch: add, topk"] = lambda: _torch_topk(*tensors, max(1, round(density * elements)))

    def prepare() -> None:  # the same share of elements is sent in every round
        residual.fill(0.0)
        encoder.residual.fill(0.0)
        accumulated[:] = update

    return interleave(contestants, rounds, prepare)


def _kernel(
    encode: Callable[..., Any],
    residual: NDArray[np.float32],
    arrays: list[NDArray[np.float32]],
    groups: int,
    tau: float,
    num_threads: int,
) -> Callable[[], object]:
    ends = np.linspace(0, residual.size, groups + 1).astype(np.int64)[1:]
    taus = np.full(groups, tau, np.float32)
    codes, counts = np.empty(residual.size, np.int32), np.empty(groups, np.int64)
    return lambda: encode(residual, *arrays, ends, taus, taus, codes, counts, num_threads)


def _numpy(residual: NDArray[np.float32], update: NDArray[np.float32], tau: np.float32) -> NDArray[np.int64]:
    """Do with NumPy what the fused pass does."""
    np.add(residual, update, out=residual)
    (where,) = np.nonzero(np.abs(residual) >= tau)
    signs = np.sign(residual[where])
    residual[where] -= signs * tau
    return (where + 1) * signs.astype(np.int64)


def _torch_threshold(residual: torch.Tensor, update: torch.Tensor, tau: float) -> torch.Tensor:
    """Do with torch what the fused pass does: the idiom of threshold compressors."""
    residual.add_(update)
    where = (residual.abs() >= tau).nonzero().squeeze(1)
    signs = residual[where].sign()
    residual.index_add_(0, where, signs, alpha=-tau)
    return (where + 1) * signs.long()


def _torch_topk(residual: torch.Tensor, update: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Take the k largest with torch: the idiom of top-k sparsifiers."""
    residual.add_(update)
    where = residual.abs().topk(k, sorted=False).indices
    values = residual[where]
    residual[where] = 0
    return where, values
