"""What starts the ranks, and where a run keeps its files."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hvdspark import storage
from hvdspark.errors import ConfigurationError
from hvdspark.masters.workers import is_local
from hvdspark.stats import trace_directory
from hvdspark_launch import Launcher

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

__all__ = ["LAUNCHERS", "absolute", "choose_launcher", "open_run_directory"]

LAUNCHERS = ("barrier", "horovod_spark", "local")


def choose_launcher(launcher: str | Launcher, spark: SparkSession, device: str) -> Launcher:
    """Return the launcher that a master's option names; on device "cpu" one that asks for no GPUs."""
    if isinstance(launcher, Launcher):
        return launcher
    if launcher == "barrier":
        from hvdspark_launch import BarrierLauncher

        return BarrierLauncher(spark, gpus=device != "cpu")
    if launcher == "horovod_spark":
        from hvdspark_launch import HorovodSparkLauncher

        return HorovodSparkLauncher(spark, gpus=device != "cpu")
    from hvdspark_launch import LocalLauncher

    return LocalLauncher()


@contextmanager
def open_run_directory(spark: SparkSession, run_directory: str | None) -> Iterator[str]:
    """Make the directory of a run; None: a temporary folder, on a local master only, which a failed run takes along.

    Raises
    ------
    ConfigurationError
        If none is given and the master is not local.
    """
    is_temporary = run_directory is None
    if run_directory is None:
        if not is_local(spark):
            raise ConfigurationError(
                "run_directory must be given on a cluster: a path or URL that the driver and every worker reach "
                "(hdfs://, s3://, gs:// or a shared folder)"
            )
        run_directory = tempfile.mkdtemp(prefix="hvdspark-")
    directory = absolute(run_directory)
    storage.make_directories(directory)
    storage.remove_tree(storage.join(directory, "events"))  # of an earlier run: nobody shall take them for this one's
    storage.remove_tree(trace_directory(directory))
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
