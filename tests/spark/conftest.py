"""Fixtures of the tests on Spark."""

import pytest

from contracts.table import WIDTH, make_rows


@pytest.fixture(scope="session")
def table(spark):
    return spark.createDataFrame(make_rows(), "id int, features array<float>, label int").repartition(3).cache()


@pytest.fixture(scope="session")
def small(spark):
    """100 rows in both forms: an array, and a column a number; 20 of them held back."""
    rows = [(i, x, y, *x, i % 5 == 0, 0.0) for i, x, y in make_rows(100)]
    names = ", ".join(f"x{i} double" for i in range(WIDTH))
    schema = f"id int, features array<float>, label int, {names}, held_back boolean, nothing double"
    return spark.createDataFrame(rows, schema).repartition(2).cache()
