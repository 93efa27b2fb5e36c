"""The hosts of a classic Spark session's executors."""

import logging
import re
import time
from typing import Any

from hvdspark_launch.errors import StartTimeout

__all__ = ["executor_hosts"]

_POLL_S = 0.1
_PATIENCE_S = 1.5  # executors of a session that has just started register one after another
_LOG = logging.getLogger(__name__)


def executor_hosts(spark: Any, start_timeout_s: float = 60.0) -> list[str]:
    """Return the host of each executor, one entry an executor, as soon as they have all come.

    Those that the session asks for by number are waited for; else it has them all when none came for a while.

    Parameters
    ----------
    spark : pyspark.sql.SparkSession
        A classic session on a cluster, without dynamic allocation.
    start_timeout_s : float
        How long to wait, since the last one came.

    Raises
    ------
    StartTimeout
        None came. Where fewer came than were asked for, a warning says so.
    """
    wanted = _num_wanted(spark)
    changed, seen = time.monotonic(), 0
    while True:
        hosts = _hosts(spark)
        now = time.monotonic()
        if len(hosts) != seen:
            changed, seen = now, len(hosts)
        if wanted and seen >= wanted:
            return hosts
        if now - changed >= (_PATIENCE_S if seen and not wanted else start_timeout_s):
            break
        time.sleep(_POLL_S)
    if not hosts:
        raise StartTimeout(
            f"the cluster gave the session no executor within {start_timeout_s:g} s, so its hosts cannot be counted; "
            "look at the master's page or log for what it waits for, or give num_workers"
        )
    if wanted:
        _LOG.warning("the session asked for %d executors and has %d: going on with these", wanted, seen)
    return hosts


def _num_wanted(spark: Any) -> int:
    master = str(spark.conf.get("spark.master", ""))
    if found := re.match(r"local-cluster\[\s*(\d+)", master):
        return int(found[1])
    # Two is what YARN and Kubernetes start where nothing is said; a standalone cluster fills all of its workers.
    return int(spark.conf.get("spark.executor.instances", None) or (2 if master.startswith(("yarn", "k8s")) else 0))


def _hosts(spark: Any) -> list[str]:
    context = spark.sparkContext._jsc.sc()
    hosts = [info.host() for info in context.statusTracker().getExecutorInfos()]
    driver = spark.conf.get("spark.driver.host", "")
    if driver in hosts:
        hosts.remove(driver)  # one entry is the driver's own; executors on its host have theirs
    return hosts
