"""Every launcher keeps the laws of the seam, on real processes and real Spark."""

import os

import psutil
import pytest

from contracts import launcher as contract
from hvdspark_launch import BarrierLauncher, HorovodSparkLauncher, LocalLauncher

pytestmark = [pytest.mark.horovod, pytest.mark.slow, pytest.mark.timeout(300)]


def children():
    """Processes below this one that are no zombies and no part of Spark itself."""
    found = psutil.Process().children(recursive=True)
    return {p.pid for p in found if p.status() != psutil.STATUS_ZOMBIE and "pyspark" not in " ".join(p.cmdline())}


@pytest.mark.parametrize("law", contract.LAWS, ids=lambda law: law.__name__)
def test_local(law):
    before = children()
    law(LocalLauncher())
    assert children() <= before


@pytest.mark.spark
@pytest.mark.parametrize("law", contract.LAWS, ids=lambda law: law.__name__)
def test_barrier(law, spark):
    law(BarrierLauncher(spark))


@pytest.mark.spark
@pytest.mark.parametrize(
    "law",
    # a run takes 10 s: those laws that do not lie in code shared with the others
    [
        contract.check_results_in_rank_order,
        contract.check_torch_distributed_joins_the_ranks,
        contract.check_an_exception_arrives_while_the_other_waits,
        contract.check_nothing_is_left_of_a_run,
        contract.check_refusals,
    ],
    ids=lambda law: law.__name__,
)
def test_horovod_spark(law, spark):
    law(HorovodSparkLauncher(spark))


@pytest.mark.spark
@pytest.mark.parametrize(
    "make", [BarrierLauncher, HorovodSparkLauncher, lambda spark, **options: LocalLauncher(**options)]
)
def test_env_reaches_the_ranks(make, spark):
    launcher = make(spark, env={"HVDSPARK_TEST_EXTRA": "yes"})
    assert launcher.run(lambda: os.environ["HVDSPARK_TEST_EXTRA"], 2) == ["yes", "yes"]
    for name in ("HOROVOD_RANK", "MASTER_PORT"):
        with pytest.raises(ValueError, match=name):
            make(spark, env={name: "0"})
