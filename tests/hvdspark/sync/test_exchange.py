"""Both exchanges keep the laws of their seam."""

import pytest

from contracts import exchange as contract
from hvdspark.codec import AdaptiveThresholdAlgorithm, Encoder, FixedThresholdAlgorithm
from hvdspark.sync import compared
from hvdspark.sync.auto import AutoExchange
from hvdspark.sync.coded import CodedExchange
from hvdspark.sync.coded_regions import CodedRegionExchange
from hvdspark.sync.dense import DenseExchange
from hvdspark.sync.fp16 import Fp16Exchange


def coded(algorithm, **options):
    def make(collective, n, phases):
        return CodedExchange(collective, Encoder(n, threshold_algorithm=algorithm, **options), 7, phases)

    return make


def regions(algorithm):
    def make(collective, n, phases):
        return CodedRegionExchange(collective, Encoder(n, threshold_algorithm=algorithm), 7, phases)

    return make


def auto(choice):
    """One that has chosen, or that is still trying."""

    def make(collective, n, phases):
        codec = coded(FixedThresholdAlgorithm(1e-2))(collective, n, phases)
        ways = {
            "codec": codec,
            "dense": DenseExchange(collective, n, phases),
            "fp16": Fp16Exchange(collective, n, phases),
        }
        made = AutoExchange(collective, ways)
        if choice:
            made._choose(choice)
        return made

    return make


FACTORIES = {
    "auto, trying": auto(None),
    "auto, codec": auto("codec"),
    "auto, fp16": auto("fp16"),
    "dense": DenseExchange,
    "fp16": Fp16Exchange,
    "regions, fixed": regions(FixedThresholdAlgorithm(1e-2)),
    "regions, adaptive": regions(AdaptiveThresholdAlgorithm()),
    "fixed": coded(FixedThresholdAlgorithm(1e-2)),
    "adaptive": coded(AdaptiveThresholdAlgorithm()),
    "dense messages": coded(FixedThresholdAlgorithm(1e-2), format="dense"),
}


@pytest.mark.parametrize("factory", FACTORIES.values(), ids=FACTORIES)
@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_law(check, factory):
    check(factory)


@pytest.mark.parametrize(
    ("sent", "dense", "words"),
    [(0, 100, "a single rank"), (10, 25, "2.5 x fewer"), (10, 1_184_000, "118,400 x fewer"), (40, 10, "4.0 x more")],
)
def test_bytes_are_compared_in_words(sent, dense, words):
    assert compared(sent, dense).startswith(words)
