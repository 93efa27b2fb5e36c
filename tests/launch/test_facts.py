"""What ranks refuse on each other's facts."""

import pytest

from hvdspark_launch import EnvironmentMismatch, LaunchError
from hvdspark_launch.facts import Facts, check_gpus, check_versions, versions_of


def rank(number, host="a", gpus=(), visible=None, **versions):
    return Facts(number, host, f"10.0.0.{ord(host)}", 0, 0, versions, list(gpus), visible)


def test_json_gives_back_the_facts():
    facts = rank(3, gpus=["0"], visible="2,3", numpy="2.0", torch=None)
    assert Facts.from_json(facts.to_json()) == facts


def test_versions_are_those_of_this_python():
    import platform

    import numpy as np

    found = versions_of(["numpy", "no-such-package-at-all"])
    assert found["numpy"] == np.__version__
    assert found["no-such-package-at-all"] is None
    assert platform.python_version().startswith(found["python"] + ".")


def test_equal_versions_pass():
    check_versions({"numpy": "2.0", "torch": None}, [rank(i, numpy="2.0", torch=None) for i in range(3)])


def test_a_mismatch_names_package_rank_host_and_both_versions():
    with pytest.raises(EnvironmentMismatch) as caught:
        check_versions(
            {"numpy": "2.0", "torch": "2.13"},
            [rank(0, numpy="2.0", torch="2.13"), rank(1, "b", numpy="1.26", torch=None)],
        )
    text = str(caught.value)
    assert "numpy" in text
    assert "driver 2.0" in text
    assert "rank 1 on b: 1.26" in text
    assert "rank 1 on b: not installed" in text
    assert "rank 0" not in text


def test_builds_of_one_version_are_not_told_apart():
    check_versions({"torch": "2.13.0+cpu"}, [rank(0, torch="2.13.0+cu126")])


def test_what_the_driver_has_not_must_be_equal_among_ranks():
    check_versions({"horovod": None}, [rank(i, horovod="0.28.1") for i in range(2)])
    with pytest.raises(EnvironmentMismatch, match=r"other ranks 0\.28\.1 .*rank 1 on a: 0\.27"):
        check_versions({"horovod": None}, [rank(0, horovod="0.28.1"), rank(1, horovod="0.27")])


def test_a_long_table_is_cut():
    with pytest.raises(EnvironmentMismatch, match="and 80 more lines"):
        check_versions({"numpy": "2.0"}, [rank(i, numpy="1.0") for i in range(100)])


@pytest.mark.parametrize(
    "ranks",
    [
        [rank(0), rank(1)],
        [rank(0, gpus=["0"]), rank(1, gpus=["1"])],
        [rank(0, "a", gpus=["0"]), rank(1, "b", gpus=["0"])],
        # Two containers of a host that each see one card, which each counts as its first.
        [rank(0, gpus=["0"], visible="4"), rank(1, gpus=["0"], visible="5")],
        [rank(0, gpus=["GPU-8f2"]), rank(1, gpus=["GPU-77c"])],
    ],
)
def test_one_process_a_gpu_passes(ranks):
    check_gpus(ranks)


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ([rank(0, gpus=["0"]), rank(1, gpus=["0"])], "two ranks of a host have the same GPU"),
        ([rank(0, gpus=["0"], visible="4"), rank(1, gpus=["1"], visible="3,4")], "two ranks of a host"),
        ([rank(0, gpus=["0"]), rank(1, "b")], "some ranks have a GPU and some have none"),
        ([rank(0, gpus=["0", "1"])], "spark.task.resource.gpu.amount"),
    ],
)
def test_other_gpus_are_refused_with_a_table(ranks, words):
    with pytest.raises(LaunchError, match=words) as caught:
        check_gpus(ranks)
    assert all(f"rank {facts.rank}" in str(caught.value) for facts in ranks)
