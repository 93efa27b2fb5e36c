"""How many ranks a cluster is worth: its hosts times the ranks of a host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from hvdspark.errors import ConfigurationError
from hvdspark_launch import InlineLauncher, Launcher, LocalLauncher
from hvdspark_launch.spark_gpus import gpus_of_executor
from hvdspark_launch.spark_hosts import executor_hosts

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["count_workers", "is_local"]


def count_workers(spark: SparkSession, launcher: Launcher, workers_per_node: int, device: str) -> int:
    """Return the number of ranks where the user names none: hosts x workers per node.

    Parameters
    ----------
    spark : SparkSession
        Its executors' hosts count; waits for those of a session that has just started.
    launcher : Launcher
        One that starts processes of this host counts this host only.
    workers_per_node : int
        -1: as many as a host has GPUs, else one.
    device : str
        With "cpu" a host has no GPUs.

    Raises
    ------
    ConfigurationError
        The hosts cannot be counted: under Spark Connect, or where executors come and go.
    StartTimeout
        The session has no executor yet, after a minute.
    """
    if isinstance(launcher, InlineLauncher):
        return max(1, workers_per_node)
    if isinstance(launcher, LocalLauncher) or (is_local(spark) and not _is_connect(spark)):
        return _ranks_here(workers_per_node, device)
    if _is_connect(spark):
        raise ConfigurationError("num_workers must be given under Spark Connect: the hosts cannot be counted from here")
    if spark.conf.get("spark.dynamicAllocation.enabled", "false") == "true":
        raise ConfigurationError(
            "num_workers must be given while spark.dynamicAllocation.enabled is true: executors come and go, so their "
            "hosts cannot be counted"
        )
    hosts = executor_hosts(spark)
    if workers_per_node > 0:
        return len(set(hosts)) * workers_per_node
    gpus = gpus_of_executor(spark) if device != "cpu" else 0
    return len(hosts) * gpus or len(set(hosts))


def _ranks_here(workers_per_node: int, device: str) -> int:
    if workers_per_node > 0:
        return workers_per_node
    return max(1, torch.cuda.device_count() if device != "cpu" else 0)


def is_local(spark: SparkSession) -> bool:
    """Whether the master is local and the driver this process: what a path here means, it means to the ranks too."""
    if _is_connect(spark):
        return False
    master = str(spark.conf.get("spark.master", ""))
    return master == "local" or master.startswith("local[")


def _is_connect(spark: SparkSession) -> bool:
    return type(spark).__module__.startswith("pyspark.sql.connect")
