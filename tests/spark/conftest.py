"""Fixtures of the tests on Spark."""

import pytest

from contracts.table import make_rows


@pytest.fixture(scope="session")
def table(spark):
    return spark.createDataFrame(make_rows(), "id int, features array<float>, label int").repartition(3).cache()
