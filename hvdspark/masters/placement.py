"""How many ranks, started by what, and where a run keeps its files."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hvdspark import storage
from hvdspark.errors import ConfigurationError
from hvdspark_launch import Launcher

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

__all__ = ["LAUNCHERS", "absolute", "choose_launcher", "count_workers", "open_run_directory"]

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


@contextmanager
def open_run_directory(spark: SparkSession, run_directory: str | None) -> Iterator[str]:
    """Make the directory of a run; None: a temporary folder, on a local master only, which a failed run takes along.

    Raises
    ------
    ConfigurationError
        If none is given and the master is not local.
    """
    context = _context(spark)
    is_temporary = run_directory is None
    if run_directory is None:
        if context is None or not _is_local(context):
            raise ConfigurationError(
                "run_directory must be given on a cluster: a path or URL that the driver and every worker reach "
                "(hdfs://, s3://, gs:// or a shared folder)"
            )
        run_directory = tempfile.mkdtemp(prefix="hvdspark-")
    directory = absolute(run_directory)
    storage.make_directories(directory)
    storage.remove_tree(storage.join(directory, "events"))  # of an earlier run: nobody shall take them for this one's
    storage.write_json(storage.join(directory, "run.json"), {"run": uuid.uuid4().hex})
    try:
        yield directory
    except BaseException:
        if is_temporary:  # nobody was told where it is
            storage.remove_tree(directory)
        raise


def absolute(path: str) -> str:
    """Return a local path from the root on, since workers may run in another folder; a URL as it is."""
    return str(storage.local_path(path).absolute()) if storage.is_local(path) else path


def _context(spark: SparkSession) -> SparkContext | None:
    return getattr(spark, "sparkContext", None)  # a Connect session has none


def _num_hosts(context: SparkContext) -> int:
    hosts = [info.host() for info in context._jsc.sc().statusTracker().getExecutorInfos()]
    driver = context.getConf().get("spark.driver.host", "")
    if not _is_local(context) and driver in hosts:
        hosts.remove(driver)  # one entry is the driver's own; its executors, if it has any, have theirs
    return max(1, len(set(hosts)))


def _is_local(context: SparkContext) -> bool:
    return (context.master or "").split("[")[0] == "local"
