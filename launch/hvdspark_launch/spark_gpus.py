"""GPUs of a Spark session: how many, and a stage in which each task has one of its own."""

import logging
from typing import Any

__all__ = ["GPU_AMOUNT", "gpus_of_executor", "gpus_of_task", "profile_of_one_gpu"]

GPU_AMOUNT = "spark.task.resource.gpu.amount"
_LOG = logging.getLogger(__name__)


def gpus_of_executor(spark: Any) -> int:
    """Return the GPUs that each executor asks for. A local master has none to give, whatever is asked for."""
    return int(spark.conf.get("spark.executor.resource.gpu.amount", None) or 0)


def gpus_of_task(spark: Any) -> float:
    """Return the GPUs that the session's own profile gives each task; a part of one where tasks share it."""
    return float(spark.conf.get(GPU_AMOUNT, None) or 0)


def profile_of_one_gpu(spark: Any) -> Any:
    """Return a profile by which each task of a stage gets one GPU, or None where none is needed or possible.

    It is needed where executors have GPUs and the session's own profile gives a task none, a part of one, or several.
    It asks for nothing of executors, so those that are there run the stage. Spark allows that on standalone clusters,
    YARN and Kubernetes. Where it does not, a warning says why, and ranks get what the session gives.

    Parameters
    ----------
    spark : pyspark.sql.SparkSession
        A classic session or one of Spark Connect, without dynamic allocation.

    Returns
    -------
    pyspark.resource.ResourceProfile or None
        Known to the session's resource profile manager.
    """
    if not gpus_of_executor(spark) or gpus_of_task(spark) == 1:
        return None
    from py4j.protocol import Py4JError
    from pyspark.errors import PySparkException

    try:
        return _connect_profile() if _is_connect(spark) else _classic_profile(spark)
    except (Py4JError, PySparkException) as error:
        java = getattr(error, "java_exception", None)
        _LOG.warning(
            "Spark refuses to give each rank a GPU of its own (%s): ranks get what the session gives a task; "
            "start the session with %s=1",
            java.getMessage() if java is not None else error,
            GPU_AMOUNT,
        )
        return None


def _is_connect(spark: Any) -> bool:
    return type(spark).__module__.startswith("pyspark.sql.connect")


def _classic_profile(spark: Any) -> Any:
    from pyspark.resource import ResourceProfile

    built = _built()._java_resource_profile
    manager = spark.sparkContext._jsc.sc().resourceProfileManager()
    # Spark never forgets a profile: a session that fits often shall not pile up equal ones.
    known = manager.getEquivalentProfile(built)
    if known.isDefined():
        return ResourceProfile(_java_resource_profile=known.get())
    manager.addResourceProfile(built)  # raises where the cluster manager cannot; slots are counted only for known ones
    return ResourceProfile(_java_resource_profile=built)


def _connect_profile() -> Any:
    profile = _built()
    _ = profile.id  # asks the server, which raises where its cluster manager cannot
    return profile


def _built() -> Any:
    from pyspark.resource import ResourceProfileBuilder, TaskResourceRequests

    return ResourceProfileBuilder().require(TaskResourceRequests().resource("gpu", 1)).build
