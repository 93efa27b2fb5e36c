"""The laws of a collective, on the implementations that need no launcher."""

import pytest

from contracts.collective import ENDS, LAWS
from hvdspark.collectives import SoloCollective, open_collective, run_ranks


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.__name__)
def test_solo(law):
    with SoloCollective() as collective:
        law(collective)


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_solo_ends(end):
    end(SoloCollective())


@pytest.mark.parametrize(
    ("size", "ranks_per_host"), [(1, None), (2, None), (3, None), (5, None), (1, 1), (3, 1), (4, 2), (5, 3)]
)
def test_threads(size, ranks_per_host):
    def all_laws(collective):
        for law in LAWS:
            law(collective)
        for end in ENDS:
            end(open_collective("threads"))

    run_ranks(all_laws, size, ranks_per_host=ranks_per_host)
