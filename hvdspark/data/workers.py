"""The Python of Spark's workers: which one they run, and what it means that it cannot run us."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from hvdspark.errors import EnvironmentMismatch

if TYPE_CHECKING:
    from typing import Any

    from pyspark import RDD
    from pyspark.sql import SparkSession

__all__ = ["use_driver_python", "workers_explained"]


def use_driver_python(spark: "SparkSession | RDD[Any]") -> None:
    """Let the workers of a local master run the driver's own Python; nothing happens on a cluster or under Connect.

    Without it they run whatever ``python3`` is first on the PATH, which a virtual environment that was not activated is
    not. An RDD stands for the session that it belongs to.
    """
    context = getattr(spark, "sparkContext", getattr(spark, "context", None))  # a Connect session has neither
    if context is not None and context.master.startswith("local"):
        context.pythonExec = sys.executable


@contextmanager
def workers_explained() -> Iterator[None]:
    """Say in a sentence what Spark says in a page, where a job in the block fails for the workers' environment.

    Raises
    ------
    EnvironmentMismatch
        Workers have not hvdspark, or another version of Python.
    """
    try:
        yield
    except Exception as error:
        text = str(error)
        missing = "No module named 'hvdspark" in text
        if missing or "PYTHON_VERSION_MISMATCH" in text:
            what = (
                "hvdspark is not installed for the Python of the workers"
                if missing
                else "the workers run another Python"
            )
            raise EnvironmentMismatch(
                f"{what}: give them the driver's environment (docs/install.md) and name its interpreter in "
                "PYSPARK_PYTHON or spark.pyspark.python"
            ) from None
        raise
