"""Both exchanges keep the laws of their seam."""

import pytest

from contracts import exchange as contract
from hvdspark.codec import AdaptiveThresholdAlgorithm, Encoder, FixedThresholdAlgorithm
from hvdspark.sync.coded import CodedExchange
from hvdspark.sync.dense import DenseExchange


def coded(algorithm, **options):
    def make(collective, n, phases):
        return CodedExchange(collective, Encoder(n, threshold_algorithm=algorithm, **options), 7, phases)

    return make


FACTORIES = {
    "dense": DenseExchange,
    "fixed": coded(FixedThresholdAlgorithm(1e-2)),
    "adaptive": coded(AdaptiveThresholdAlgorithm()),
    "dense messages": coded(FixedThresholdAlgorithm(1e-2), format="dense"),
}


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_law(check, factory):
    check(factory)
