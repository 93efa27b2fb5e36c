"""What travels of a module besides its trained weights: in every dtype, over every transport."""

import math

import numpy as np
import torch

from contracts.messages import message_of
from hvdspark.sync import mean_buffers_
from hvdspark.sync.handshake import broadcast_tensors_

NARROW = (torch.float16, torch.bfloat16)
DTYPES = (
    *NARROW,
    torch.float32,
    torch.float64,
    torch.float8_e4m3fn,
    torch.int64,
    torch.int8,
    torch.bool,
    torch.complex64,
)


def bits(tensor):
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def any_bits(rank, dtype, shape):
    """A tensor of every kind of bits, NaN of all payloads among them; of booleans only the two."""
    if not math.prod(shape):
        return torch.empty(shape, dtype=dtype)
    raw = message_of(rank, math.prod(shape) * dtype.itemsize)
    return torch.from_numpy(raw & 1 if dtype == torch.bool else raw).view(dtype).view(shape)


def tensors_are_broadcast_bit_for_bit(collective):
    shapes = [(3, 5), (), (0,), (17,)]
    tensors = [any_bits(collective.rank, dtype, shape) for dtype in DTYPES for shape in shapes]
    tensors.append(any_bits(collective.rank, torch.bfloat16, (6, 4)).t())
    expected = [bits(any_bits(0, dtype, shape)) for dtype in DTYPES for shape in shapes]
    expected.append(bits(any_bits(0, torch.bfloat16, (6, 4)).t()))
    broadcast_tensors_(collective, tensors)
    assert [bits(tensor) for tensor in tensors] == expected


def narrow_buffers_are_averaged(collective):
    """Summed wider than they are, so that nothing overflows or is lost on the way, and rounded at the end."""
    size = collective.size
    for dtype in NARROW:
        values = [
            torch.from_numpy(np.random.default_rng([rank, 5]).standard_normal(301) * 10.0 ** (rank % 3)).to(dtype)
            for rank in range(size)
        ]
        for rank, value in enumerate(values):
            value[:3] = torch.tensor([60_000.0, 1.0 if rank == 0 else 2.0**-7, 7.0]).to(dtype)
        module = torch.nn.Module()
        module.register_buffer("statistics", values[collective.rank].clone())
        module.register_buffer("constant", torch.full((3,), 0.1, dtype=dtype))
        module.register_buffer("wide", torch.tensor([float(collective.rank)]))
        mean_buffers_(module, collective)
        exact = torch.stack([value.double() for value in values]).sum(0) / size
        # To the nearest number there is, or the other one beside it where both are as near as float64 can tell.
        nearest = exact.to(dtype)
        assert module.statistics.dtype == dtype
        assert (module.statistics[:3] == nearest[:3]).all()
        far = (module.statistics.double() - exact).abs() > (nearest.double() - exact).abs() + 1e-12 * exact.abs()
        assert not far.any()
        assert torch.equal(module.constant, torch.full((3,), 0.1, dtype=dtype))
        assert module.wide.item() == (size - 1) / 2
        parts = collective.allgather(module.statistics.view(torch.uint8).numpy())
        assert len({bytes(part) for part in parts}) == 1


LAWS = [tensors_are_broadcast_bit_for_bit, narrow_buffers_are_averaged]
