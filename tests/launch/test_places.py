"""Where ranks stand among each other, and which variables say so."""

import pytest

from hvdspark_launch.environment import (
    LOOPBACK,
    environment_restored,
    horovod_variables,
    interface_of,
    places,
    torch_variables,
)
from hvdspark_launch.errors import LaunchError


def test_ranks_of_uneven_hosts():
    found = places(["a", "b", "a", "b", "b"])
    assert [(p.local_rank, p.local_size) for p in found] == [(0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]
    assert [(p.cross_rank, p.cross_size) for p in found] == [(0, 2), (1, 2), (0, 2), (1, 2), (0, 1)]
    assert [p.host for p in found] == [0, 1, 0, 1, 1]
    assert all(p.rank == i and p.size == 5 for i, p in enumerate(found))


def test_variables_are_text_and_complete():
    place = places(["a", "a"])[1]
    found = horovod_variables(place, rendezvous=("10.0.0.1", 99), interface="eth7", timeout_s=30)
    assert found["HOROVOD_RANK"] == "1"
    assert found["HOROVOD_GLOO_RENDEZVOUS_PORT"] == "99"
    assert found["HOROVOD_GLOO_IFACE"] == "eth7"
    assert all(isinstance(value, str) for value in found.values())


def test_variables_of_torch_are_those_of_torchrun():
    place = places(["a", "b", "b"])[2]
    found = torch_variables(place, store=("10.0.0.1", 99), interface=None)
    assert found == {
        "RANK": "2",
        "WORLD_SIZE": "3",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "99",
        "TORCHELASTIC_USE_AGENT_STORE": "False",
    }
    assert torch_variables(place, store=("10.0.0.1", 99), interface="eth7")["GLOO_SOCKET_IFNAME"] == "eth7"


def test_environment_is_restored_after_an_error(monkeypatch):
    monkeypatch.setenv("HOROVOD_RANK", "77")
    import os

    def change_and_fail():
        with environment_restored({"HOROVOD_SIZE": "2"}):
            assert "HOROVOD_RANK" not in os.environ
            os.environ["OTHER"] = "1"
            raise KeyError("mine")

    before = dict(os.environ)
    with pytest.raises(KeyError):
        change_and_fail()
    assert dict(os.environ) == before


def test_interfaces():
    assert interface_of(LOOPBACK).startswith("lo")
    with pytest.raises(LaunchError, match=r"no network interface .* 203\.0\.113\.9"):
        interface_of("203.0.113.9")
