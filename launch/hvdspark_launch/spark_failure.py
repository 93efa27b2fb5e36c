"""What a failed Spark job means for the ranks that ran in it."""

import re
from typing import NoReturn

from hvdspark_launch.errors import EnvironmentMismatch, LaunchError, RankFailed
from hvdspark_launch.outcome import find_outcome, raise_first

__all__ = ["raise_for", "reason_of"]

_TASK = re.compile(r"barrier task ResultTask\(\d+, (\d+)\) finished unsuccessfully\.\s*")
_JAVA = re.compile(r"^\s+at .*|^\s*\.\.\. \d+ more|^Driver stacktrace:.*|^JVM stacktrace:.*|^\s*SQLSTATE: \w+\s*")
_PREFIX = re.compile(
    r"^(: )?((org\.apache\.spark|java\.\w+)\.[\w.$]*: )?(Job aborted due to stage failure: |Exception thrown in .*: ?)?"
)
_MAX_LINES = 12


def reason_of(text: str) -> str:
    """Shorten Spark's message to its reason: the first lines, without the Java trace.

    Parameters
    ----------
    text : str
        The text of an exception of PySpark or Py4J.
    """
    if found := _TASK.search(text):
        text = text[found.end() :]
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("An error occurred while calling "):
            continue
        if _JAVA.match(line):
            if lines:
                break
            continue
        if line := _PREFIX.sub("", line).rstrip():
            lines.append(line)
    return "\n".join(lines[:_MAX_LINES]) or "Spark gave no reason"


def raise_for(error: Exception, host: str, token: str) -> NoReturn:
    """Raise what a failed barrier job means.

    Parameters
    ----------
    error : Exception
        What `DataFrame.collect` raised.
    host : str
        What to say for the host of a rank that died; Spark does not name it.
    token : str
        The run's, see `RankAborted`.

    Raises
    ------
    RankFailed
        A rank left its outcome in the text, or its worker died.
    EnvironmentMismatch
        The workers run another Python, or have not this package.
    LaunchError
        Anything else, with Spark's reason.
    """
    text = str(error)
    if outcome := find_outcome(text, token):
        raise_first([outcome])
    reason = reason_of(text)
    if "PYTHON_VERSION_MISMATCH" in text:
        raise EnvironmentMismatch(
            f"{reason}\nSet PYSPARK_PYTHON (or spark.pyspark.python) to the driver's version of Python on the workers"
        ) from None
    if "No module named 'hvdspark_launch'" in text:
        raise EnvironmentMismatch(
            "hvdspark is not installed for the Python of the workers; install it on every host, "
            "or send the environment with the job (PYSPARK_PYTHON and spark.archives)"
        ) from None
    if found := _TASK.search(text):
        raise RankFailed(int(found.group(1)), host, reason) from None
    raise LaunchError(f"the Spark job of the run failed: {reason}") from None
