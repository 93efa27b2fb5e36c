"""A user's own NCCL group, beside which the collective "torch" has Gloo's."""

import pytest
import torch
import torch.distributed as dist  # noqa: TID251

from contracts.collective import LAWS
from hvdspark.collectives import open_collective
from hvdspark_launch.environment import LOOPBACK
from hvdspark_launch.ports import ReservedPort

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(120),
    pytest.mark.skipif(not (torch.cuda.is_available() and dist.is_nccl_available()), reason="no NVIDIA GPU here"),
]


def test_the_users_nccl_group_is_left_alone():
    with ReservedPort(LOOPBACK) as store:
        dist.init_process_group("nccl", init_method=f"tcp://{LOOPBACK}:{store.port}", rank=0, world_size=1)
    try:
        with open_collective("auto") as collective:
            assert collective.name == "torch"
            for law in LAWS:
                law(collective)
            array = torch.ones(3, device="cuda")
            dist.all_reduce(array)
            assert array.tolist() == [1.0] * 3
        assert dist.get_backend() == "nccl"
    finally:
        dist.destroy_process_group()
