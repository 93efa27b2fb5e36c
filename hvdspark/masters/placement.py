"""How many ranks, started by what, and where a run keeps its files."""

from __future__ import annotations

import tempfile
import uuid
from typing import TYPE_CHECKING

from hvdspark import storage
from hvdspark.errors import ConfigurationError
from hvdspark_launch import Launcher

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

__all__ = ["LAUNCHERS", "choose_launcher", "count_workers", "open_run_directory"]

LAUNCHERS = ("barrier", "horovod_spark", "local")


def choose_launcher(launcher: str | Launcher, spark: SparkSession) -> Launcher:
    """Return the launcher that a master's option names."""
    if isinstance(launcher, Launcher):
        return launcher
    if launcher == "barrier":
        from hvdspark_launch import BarrierLauncher

        return BarrierLauncher(spark)
    if launcher == "horovod_spark":
        from hvdspark_launch import HorovodSparkLauncher

        return HorovodSparkLauncher(spark)
    from hvdspark_launch import LocalLauncher

    return LocalLauncher()


def count_workers(spark: SparkSession, num_workers: int | None, workers_per_node: int) -> int:
    """Return the number of ranks: as told, or hosts x workers per node (one where that is -1 and hosts have no GPUs).

    Raises
    ------
    ConfigurationError
        If the hosts cannot be counted (Spark Connect) or are asked for more GPUs than Spark knows of.
    """
    if num_workers is not None:
        return num_workers
    context = _context(spark)
    if context is None:
        raise ConfigurationError("num_workers must be given under Spark Connect: the hosts cannot be counted from here")
    if workers_per_node > 0:
        return _num_hosts(context) * workers_per_node
    gpus = int(context.getConf().get("spark.executor.resource.gpu.amount", "0"))
    return _num_hosts(context) * max(1, gpus)


def open_run_directory(spark: SparkSession, run_directory: str | None) -> str:
    """Make the directory of a run and return it; None means a temporary folder, on a local master only."""
    if run_directory is None:
        context = _context(spark)
        if context is None or (context.master or "").split("[")[0] != "local":
            raise ConfigurationError(
                "run_directory must be given on a cluster: a path or URL that the driver and every worker reach "
                "(hdfs://, s3://, gs:// or a shared folder)"
            )
        run_directory = tempfile.mkdtemp(prefix="hvdspark-")
    storage.make_directories(run_directory)
    storage.write_json(storage.join(run_directory, "run.json"), {"run": uuid.uuid4().hex})
    return run_directory


def _context(spark: SparkSession) -> SparkContext | None:
    return getattr(spark, "sparkContext", None)  # a Connect session has none


def _num_hosts(context: SparkContext) -> int:
    infos = context._jsc.sc().statusTracker().getExecutorInfos()
    hosts = {info.host() for info in infos}
    return max(1, len(hosts))
