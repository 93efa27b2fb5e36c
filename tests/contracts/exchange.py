"""The laws of `hvdspark.sync.Exchange`, for any factory ``(collective, n, phases) -> Exchange``."""

import numpy as np
import pytest

from hvdspark.collectives import run_ranks
from hvdspark.errors import HvdsparkError, NonFiniteError, RankLost
from hvdspark.sync.part import Part
from hvdspark.sync.phases import Phases

N = 200
STEPS = 12


def vectors(rank, seed=0):
    return np.random.default_rng([seed, rank]).normal(scale=1e-2, size=(STEPS, N)).astype(np.float32)


def check_agreement_of_totals(factory, size=3):
    """Law 1, for add_total."""

    def fn(world):
        exchange, out = factory(world, N, Phases()), np.zeros(N, np.float32)
        for vector in vectors(world.rank):
            exchange.add_total(vector, out, 1 / size, part=Part())
        return out.tobytes()

    assert len(set(run_ranks(fn, size))) == 1


def check_conservation_of_totals(factory, size=3):
    """Law 2, for add_total: what went in is in `out` or in the residuals."""

    def fn(world):
        exchange, out = factory(world, N, Phases()), np.zeros(N, np.float32)
        put_in = np.zeros(N)
        for vector in vectors(world.rank):
            put_in += vector
            exchange.add_total(vector.copy(), out, 0.5, part=Part())
        kept = np.zeros(N) if exchange.residual is None else exchange.residual.astype(np.float64)
        return put_in, kept, out

    found = run_ranks(fn, size)
    put_in, kept = sum(each[0] for each in found), sum(each[1] for each in found)
    np.testing.assert_allclose(found[0][2] / 0.5 + kept, put_in, rtol=0, atol=1e-6)


def check_agreement_and_conservation_of_differences(factory, size=3):
    """Laws 1 and 2, for add_difference: each rank walks off by its vector, all meet at the mean."""

    def fn(world):
        exchange = factory(world, N, Phases())
        agreed = np.ones(N, np.float32)
        walked = np.zeros(N)
        for vector in vectors(world.rank):
            local = agreed - vector
            walked += agreed.astype(np.float64) - local
            exchange.add_difference(agreed, local, agreed, -1 / size, part=Part())
        kept = np.zeros(N) if exchange.residual is None else exchange.residual.astype(np.float64)
        return agreed, walked, kept

    found = run_ranks(fn, size)
    assert len({each[0].tobytes() for each in found}) == 1
    walked, kept = (sum(each[i] for each in found) / size for i in (1, 2))
    np.testing.assert_allclose(1 - found[0][0].astype(np.float64) + kept, walked, rtol=0, atol=2e-6)


def check_all_or_nothing(factory, size=3):
    """Law 3: one rank's NaN raises on all, nothing moves, and the exchange goes on as if the others had only waited."""

    def fn(world):
        exchange, out, agreed = factory(world, N, Phases()), np.zeros(N, np.float32), np.ones(N, np.float32)
        first, second, third = vectors(world.rank)[:3]
        exchange.add_total(first.copy(), out, 1.0, part=Part())
        before = out.tobytes()
        kept = np.zeros(N) if exchange.residual is None else exchange.residual.astype(np.float64)
        bad = second.copy()
        bad[7] = np.nan if world.rank == 1 else bad[7]
        mine = NonFiniteError if world.rank == 1 or exchange.residual is None else RankLost
        with pytest.raises(mine) as caught:
            exchange.add_total(bad.copy(), out, 1.0, part=Part())
        if mine is RankLost:
            assert "rank 1" in str(caught.value)
            assert "NonFiniteError" in str(caught.value)
        with pytest.raises(HvdsparkError):
            exchange.add_difference(agreed, agreed - bad, agreed, -1.0, part=Part())
        assert out.tobytes() == before
        assert agreed.tobytes() == np.ones(N, np.float32).tobytes()
        if exchange.residual is not None:
            moved = np.zeros(N) if world.rank == 1 else second.astype(np.float64) + (agreed - (agreed - second))
            np.testing.assert_allclose(exchange.residual, kept + moved, rtol=0, atol=1e-6)
        exchange.add_total(third.copy(), out, 1.0, part=Part())
        return out.tobytes()

    assert len(set(run_ranks(fn, size))) == 1


def check_state_comes_back(factory, size=2):
    """A fresh exchange with the state of another goes on like it."""

    def fn(world):
        one, out = factory(world, N, Phases()), np.zeros(N, np.float32)
        for vector in vectors(world.rank)[:5]:
            one.add_total(vector, out, 1.0, part=Part())
        two = factory(world, N, Phases())
        two.load_state_dict(one.state_dict())
        outs = []
        for exchange in (one, two):
            total = np.zeros(N, np.float32)
            for vector in vectors(world.rank)[5:]:
                exchange.add_total(vector.copy(), total, 1.0, part=Part())
            outs.append((total.tobytes(), exchange.measures()))
        return outs[0] == outs[1]

    assert run_ranks(fn, size) == [True] * size


CHECKS = [
    check_agreement_of_totals,
    check_conservation_of_totals,
    check_agreement_and_conservation_of_differences,
    check_all_or_nothing,
    check_state_comes_back,
]
