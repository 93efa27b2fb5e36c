"""Decoding: the messages of eight ranks into one array, against ``r += g`` of the same run."""

from collections.abc import Callable

import floor
import numpy as np
import torch
from numpy.typing import NDArray
from pairs import Outcome, interleave

from hvdspark.codec import Encoder, FixedThresholdAlgorithm, decode_into, read_header
from hvdspark_kernels.threshold.codes import add_codes

__all__ = ["measure"]

_RANKS = 8


def measure(
    elements: int, rounds: int, num_threads: int, density: float, *, rivals: bool
) -> tuple[dict[str, Outcome], int]:
    """Time the decoding of eight messages; return the outcomes and how many codes the messages have together."""
    torch.set_num_threads(num_threads)
    sparse, rice = _messages(elements, density, "sparse"), _messages(elements, density, "rice")
    codes = [message[64:].view(np.int32) for message in sparse]
    ends = np.cumsum([each.size for each in codes])
    together = np.concatenate(codes)
    indices = np.sort(np.abs(together)) - 1  # in one pass, the best order there is
    values = np.array([read_header(message).magnitude for message in sparse], np.float32)
    out, update = np.zeros(elements, np.float32), np.zeros(elements, np.float32)
    contestants: dict[str, Callable[[], object]] = {
        "r += g": lambda: floor.add(out, update, num_threads),
        "r += g (control)": lambda: floor.add(out, update, num_threads),
        "out[i] += 1, nothing checked": lambda: floor.scatter(indices, out),
        "add_codes": lambda: add_codes(together, ends, values, out, num_threads),
        "decode_into, sparse": lambda: decode_into(sparse, out, num_threads=num_threads),
        "decode_into, Rice": lambda: decode_into(rice, out, num_threads=num_threads),
    }
    if rivals:
        pairs = [
            (torch.from_numpy(np.abs(each) - 1), torch.from_numpy(np.sign(each, dtype=np.float32))) for each in codes
        ]
        target = torch.from_numpy(out)
        contestants["torch: index_add_"] = lambda: [target.index_add_(0, *pair) for pair in pairs]
        contestants["numpy: out[i] += v"] = lambda: _numpy(codes, out)
    return interleave(contestants, rounds, lambda: floor.add(update, update, num_threads)), int(ends[-1])


def _messages(elements: int, density: float, form: str) -> list[NDArray[np.uint8]]:
    messages = []
    for rank in range(_RANKS):
        update = np.random.default_rng(rank).standard_normal(elements, dtype=np.float32)
        algorithm = FixedThresholdAlgorithm(floor.threshold_of(update, density))
        messages.append(Encoder(elements, threshold_algorithm=algorithm, format=form).encode(update).copy())
    return messages


def _numpy(codes: list[NDArray[np.int32]], out: NDArray[np.float32]) -> None:
    for each in codes:
        out[np.abs(each) - 1] += np.sign(each, dtype=np.float32)
