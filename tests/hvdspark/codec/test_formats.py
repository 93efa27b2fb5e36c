"""The laws of formats, on every format there is, and what each of them is told by its size."""

import numpy as np
import pytest

from contracts import format as contract
from hvdspark.codec.format import Plan
from hvdspark.codec.message import DENSE, FORMATS


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
@pytest.mark.parametrize("law", contract.LAWS, ids=lambda law: law.__name__)
def test_law(law, form):
    law(form)


def test_there_are_laws():
    assert len(contract.LAWS) == 10


def test_formats_have_names_and_numbers_of_their_own():
    assert all(form.name == name for name, form in FORMATS.items())
    assert len({form.identity for form in FORMATS.values()} | {DENSE.identity}) == len(FORMATS) + 1


@pytest.mark.parametrize(
    ("name", "plan", "n", "count"),
    [
        ("sparse", Plan(8), 5, 1),
        ("sparse", Plan(7), 5, 2),
        ("sparse", Plan(8, 1), 5, 2),
        ("rice", Plan(12, 0), 100, 3),  # no whole words
        ("rice", Plan(8, 0), 100, 33),  # a code takes two bits or more
        ("rice", Plan(8, 30), 100, 3),
        ("rice", Plan(8, 31), 100, 1),
        ("rice", Plan(0, 0), 100, 1),
        ("bitmap", Plan(1), 6, 1),
        ("bitmap", Plan(2), 5, 1),
        ("bitmap", Plan(1), 5, 6),
        ("bitmap", Plan(1, 1), 5, 1),
    ],
)
def test_what_a_size_cannot_hold(name, plan, n, count):
    assert not FORMATS[name].could_hold(plan, n, count)


def test_codes_may_lie_in_the_payload_of_the_sparse_format():
    payload = np.zeros(12, np.uint8)
    codes = payload.view(np.int32)
    codes[:] = [1, -2, 5]
    form = FORMATS["sparse"]
    form.write(codes, 5, form.plan(codes, 5), payload)
    assert payload.view("<i4").tolist() == [1, -2, 5]
