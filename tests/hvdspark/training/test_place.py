"""Which device and how many threads each rank takes, decided on what all ranks see."""

import os

import pytest
import torch

from hvdspark.collectives.threads import run_ranks
from hvdspark.errors import ConfigurationError
from hvdspark.training import place
from hvdspark.training.place import Sight, choose_devices, occupied, share_of_threads, take_place


def sight(host="a", gpus=("GPU-0", "GPU-1"), **more):
    return Sight(host=host, machine=more.pop("machine", host), gpus=tuple(gpus), **more)


def chosen(wanted, *sights):
    return [str(device) for device in choose_devices(wanted, sights)]


def test_cpu_is_cpu_whatever_there_is():
    assert chosen("cpu", sight(address="1"), sight()) == ["cpu", "cpu"]


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_without_addresses_ranks_share_out_what_they_see_alike(wanted):
    b = ("GPU-8", "GPU-9")
    assert chosen(wanted, sight(), sight("b", b), sight(), sight("b", b)) == ["cuda:0", "cuda:0", "cuda:1", "cuda:1"]


@pytest.mark.parametrize("wanted", ["auto", "cuda"])
def test_addresses_of_spark_come_before_the_order_of_ranks(wanted):
    assert chosen(wanted, sight(address="1"), sight(address="0")) == ["cuda:1", "cuda:0"]


def test_each_rank_may_see_its_own_gpu_only():
    own = [sight(gpus=[f"GPU-{i}"], visible=str(i)) for i in range(3)]
    assert chosen("auto", *own) == ["cuda:0"] * 3
    assert chosen("cuda:0", *own) == ["cuda:0"] * 3


def test_each_rank_may_see_its_own_gpu_first():
    turned = [sight(gpus=["GPU-0", "GPU-1"], visible="0,1"), sight(gpus=["GPU-1", "GPU-0"], visible="1,0")]
    assert chosen("auto", *turned) == ["cuda:0", "cuda:0"]


@pytest.mark.parametrize(
    ("address", "index"),
    [("0", 0), ("1", 1), ("5", 1), ("4", 0), ("GPU-5", 1)],  # 4 and 5: as nvidia-smi counts
)
def test_addresses_where_cuda_visible_devices_renumbers(address, index):
    assert chosen("auto", sight(gpus=["GPU-4", "GPU-5"], visible="4,5", address=address)) == [f"cuda:{index}"]


@pytest.mark.parametrize(
    ("wanted", "sights", "words"),
    [
        ("auto", [sight(address="0"), sight(address="0")], "cuda:0 and cuda:0 are GPU-0"),
        # The same card under two numbers.
        (
            "auto",
            [sight(gpus=["GPU-0"], visible="0"), sight(gpus=["GPU-1", "GPU-0"], visible="1,0", address="1")],
            "cuda:0 and cuda:1 are GPU-0 .CUDA_VISIBLE_DEVICES=1,0",
        ),
        ("cuda:1", [sight(), sight()], "device='cuda:1' names the same GPU for every rank of a host"),
    ],
)
def test_two_ranks_on_one_gpu_are_refused(wanted, sights, words):
    with pytest.raises(ConfigurationError, match=words) as caught:
        choose_devices(wanted, sights)
    assert "rank 0 on a and rank 1 on a would use the same GPU" in str(caught.value)
    assert "device='cpu'" in str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "sights", "words"),
    [
        ("auto", [sight()] * 3, "rank 2 on a has no GPU: 2 ranks before it"),
        ("auto", [sight(address="7", visible="3,4")], r"Spark gave it GPU 7, but torch sees 2 .*VISIBLE_DEVICES=3,4"),
        ("auto", [sight(address="GPU-7")], "Spark gave it GPU GPU-7"),
        ("cuda:2", [sight()], "device='cuda:2', but torch sees 2"),
        ("cuda", [sight(gpus=())], "device='cuda', but torch sees no GPU on rank 0 on a"),
        ("cuda:0", [sight(gpus=(), address="3")], "although Spark gave it GPU 3"),
        ("auto", [sight(), sight("b", ())], "torch sees no GPU on rank 1 on b, while rank 0 on a sees 2"),
    ],
)
def test_what_cannot_be_had_is_refused_with_rank_and_host(wanted, sights, words):
    with pytest.raises(ConfigurationError, match=words):
        choose_devices(wanted, sights)


def test_auto_goes_on_on_the_cpu_where_no_rank_sees_a_gpu():
    assert chosen("auto", sight(gpus=()), sight(gpus=(), address="0")) == ["cpu", "cpu"]


def test_cores_are_shared_out_among_the_ranks_that_may_use_them():
    free = [sight(cores=range(8))] * 2 + [sight("b", cores=range(4))]
    assert [share_of_threads(free, rank, None) for rank in range(3)] == [4, 4, 4]
    bound = [sight(cores=(0, 1, 2)), sight(cores=(3, 4))]
    assert [share_of_threads(bound, rank, None) for rank in range(2)] == [3, 2]
    # Two containers of one machine.
    assert (
        share_of_threads([sight("a", machine="m", cores=range(6)), sight("b", machine="m", cores=range(6))], 0, "") == 3
    )
    assert share_of_threads([sight(cores=(0,))] * 5, 0, None) == 1


@pytest.mark.parametrize(("own", "expected"), [("3", 3), ("2,4", 2), ("", 4), ("0", 4), ("many", 4)])
def test_omp_num_threads_counts_before_the_cores(own, expected):
    assert share_of_threads([sight(cores=range(4))], 0, own) == expected


def test_ranks_take_their_places_together(monkeypatch, caplog):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    cores = len(os.sched_getaffinity(0))
    monkeypatch.setattr(place, "visible_gpus", tuple)
    device = torch.device("cpu")
    assert run_ranks(lambda world: take_place("auto", world), 2) == [(device, max(1, cores // 2))] * 2
    assert not caplog.records
    monkeypatch.setenv("HVDSPARK_GPU_ADDRESS", "6")
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert run_ranks(lambda world: take_place("auto", world), 2) == [(device, 5)] * 2
    assert "Spark gave GPU 6 to rank 1" in caplog.text
    with pytest.raises(ConfigurationError, match="although Spark gave it GPU 6"):
        run_ranks(lambda world: take_place("cuda", world), 2)
    monkeypatch.setattr(place, "visible_gpus", lambda: ("GPU-a",))
    with pytest.raises(ConfigurationError, match=r"rank 0 on .* and rank 1 on .* would use the same GPU"):
        run_ranks(lambda world: take_place("cuda:0", world), 2)
    # On the CPU nobody looks at GPUs: that takes memory there.
    monkeypatch.setattr(place, "visible_gpus", lambda: pytest.fail("looked"))
    assert run_ranks(lambda world: take_place("cpu", world), 2) == [(device, 5)] * 2


def test_threads_are_put_back():
    before = torch.get_num_threads()

    def fail():
        with occupied(torch.device("cpu"), before + 3):
            assert torch.get_num_threads() == before + 3
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.get_num_threads() == before


def test_gpus_are_named_by_what_no_other_has(monkeypatch):
    class Properties:
        def __init__(self, index):
            self.uuid = f"{index}-{index}"

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", Properties)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert place.visible_gpus() == ("GPU-0-0", "GPU-1-1")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-77, 1")  # two parts of a card have one id
    assert place.visible_gpus() == ("MIG-77", "GPU-1-1")
