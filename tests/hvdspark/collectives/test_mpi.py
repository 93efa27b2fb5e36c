"""What is told to MPI before it starts."""

import os

import pytest

from hvdspark.collectives.mpi import _yield_if_crowded

SWITCH = "OMPI_MCA_mpi_yield_when_idle"


@pytest.mark.parametrize(
    ("variables", "switch"),
    [
        ({}, None),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "4"}, None),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "5"}, "1"),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": "5", SWITCH: "0"}, "0"),
        ({"OMPI_COMM_WORLD_LOCAL_SIZE": ""}, None),
    ],
)
def test_ranks_yield_where_they_outnumber_the_cores(monkeypatch, variables, switch):
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    _yield_if_crowded(variables)
    assert variables.get(SWITCH) == switch
