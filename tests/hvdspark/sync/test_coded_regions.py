"""exchange="regions": what a rank sends and receives does not grow with the ranks, and nothing is lost on the way."""

import numpy as np
import pytest
import torch

from contracts import exchange as contract
from contracts.problem import backward, make_module, sgd, weights
from hvdspark import FixedThresholdAlgorithm, SharedUpdates
from hvdspark.codec import Encoder, TargetSparsityThresholdAlgorithm
from hvdspark.collectives import run_ranks
from hvdspark.errors import ConfigurationError, MessageError, RankLost
from hvdspark.sync.coded import CodedExchange
from hvdspark.sync.coded_regions import CodedRegionExchange
from hvdspark.sync.part import Part
from hvdspark.sync.phases import Phases

N = 200_000


def exchange_of(kind, world, n=N, algorithm=None, **options):
    encoder = Encoder(n, threshold_algorithm=algorithm or TargetSparsityThresholdAlgorithm())
    return kind(world, encoder, 7, Phases(), **options)


def vectors(rank, steps, n=N):
    """Heavy-tailed, and alike on all ranks to some degree, as gradients are."""
    rng, common = np.random.default_rng([1, rank]), np.random.default_rng(2)
    for _ in range(steps):
        yield (1e-2 * (rng.standard_t(4, n) + common.standard_t(4, n))).astype(np.float32)


def messages_counted(world):
    """Count what comes to this rank from others, from now on."""
    received = [0]

    def counted(method):
        def call(given):
            found = method(given)
            received[0] += sum(message.size for rank, message in enumerate(found) if rank != world.rank)
            return found

        return call

    world.allgather, world.alltoall = counted(world.allgather), counted(world.alltoall)
    return received


def bytes_received(kind, size, share=5e-3, steps=20):
    """Bytes of messages to a rank in the last steps, where each rank has the same share of ones in each of them."""

    def fn(world):
        exchange, out = exchange_of(kind, world, algorithm=FixedThresholdAlgorithm(1.0)), np.zeros(N, np.float32)
        received, draw = messages_counted(world), np.random.default_rng(world.rank)
        for step in range(steps):
            if step == steps - 5:
                received[0] = 0
            vector = np.zeros(N, np.float32)
            vector[draw.choice(N, int(share * N), replace=False)] = draw.choice([-1, 1], int(share * N))
            exchange.add_total(vector, out, 1 / size, part=Part())
        return received[0] / 5

    return np.mean(run_ranks(fn, size))


def test_bytes_do_not_grow_with_the_ranks():
    four, sixteen = (bytes_received(CodedRegionExchange, size) for size in (4, 16))
    assert sixteen - headers(16) <= 1.3 * (four - headers(4))
    assert sixteen <= bytes_received(CodedExchange, 16) / 2


def headers(size):
    """Bytes that do not depend on the model: two headers of 64 bytes, and a tally of 16, from each other rank."""
    return (size - 1) * (64 + 64 + 16)


def test_nothing_is_lost_in_many_steps():
    steps, size = 300, 3

    def fn(world):
        exchange, out = exchange_of(CodedRegionExchange, world, 2000), np.zeros(2000, np.float32)
        put_in = np.zeros(2000)
        for vector in vectors(world.rank, steps, 2000):
            put_in += vector
            exchange.add_total(vector, out, 1.0, part=Part())
        return put_in, exchange.residual.astype(np.float64), out

    found = run_ranks(fn, size)
    put_in, kept = (sum(each[i] for each in found) for i in (0, 1))
    assert len({each[2].tobytes() for each in found}) == 1
    np.testing.assert_allclose(found[0][2] + kept, put_in, rtol=0, atol=1e-6 * np.abs(put_in).sum() / 100)


def test_with_few_ranks_owners_let_everything_through():
    """Two ranks cannot give four times the density: their sums go on as they came."""

    def fn(world):
        exchange = exchange_of(CodedRegionExchange, world, 2000, FixedThresholdAlgorithm(2e-2))
        allgather, codes = (
            exchange_of(CodedExchange, world, 2000, FixedThresholdAlgorithm(2e-2)),
            np.zeros(2000, np.float32),
        )
        out = np.zeros(2000, np.float32)
        for vector in vectors(world.rank, 20, 2000):
            exchange.add_total(vector.copy(), out, 1.0, part=Part())
            allgather.add_total(vector.copy(), codes, 1.0, part=Part())
        assert not exchange._owner.residual.any()
        np.testing.assert_allclose(out, codes, rtol=0, atol=1e-6)

    run_ranks(fn, 2)


def test_an_owner_that_fails_leaves_everything_as_it_was():
    def fn(world):
        exchange, out = exchange_of(CodedRegionExchange, world, 2000), np.zeros(2000, np.float32)
        first, second, third = vectors(world.rank, 3, 2000)
        exchange.add_total(first, out, 1.0, part=Part())
        before, kept, alltoall = out.tobytes(), exchange.residual, world.alltoall

        def damaged(messages):
            if world.rank == 2:
                messages[1][-1] ^= 1
            return alltoall(messages)

        world.alltoall = damaged
        with pytest.raises(MessageError if world.rank == 1 else RankLost, match="checksum"):
            exchange.add_total(second.copy(), out, 1.0, part=Part())
        world.alltoall = alltoall
        assert out.tobytes() == before
        np.testing.assert_allclose(exchange.residual, kept.astype(np.float64) + second, rtol=0, atol=1e-7)
        exchange.add_total(third, out, 1.0, part=Part())
        return out.tobytes()

    assert len(set(run_ranks(fn, 3))) == 1


@pytest.mark.parametrize("place", [0, 20])
def test_an_owners_damaged_message_is_refused(place):
    def fn(world):
        exchange, out = exchange_of(CodedRegionExchange, world, 2000), np.zeros(2000, np.float32)
        allgather = world.allgather

        def damaged(message):
            if world.rank == 1:
                message = message.copy()
                message[place] ^= 1
            return allgather(message)

        world.allgather = damaged
        with pytest.raises(MessageError):
            exchange.add_total(next(vectors(world.rank, 1, 2000)), out, 1.0, part=Part())
        assert not out.any()

    run_ranks(fn, 2)


def test_ranks_share_one_threshold():
    def fn(world):
        exchange, out = exchange_of(CodedRegionExchange, world, 2000), np.zeros(2000, np.float32)
        for vector in vectors(world.rank, 10, 2000):
            exchange.add_total(vector, out, 1.0, part=Part())
        state = exchange._encoder.state_dict()
        return tuple(state["thresholds"]), tuple(state["densities"])

    assert len(set(run_ranks(fn, 6))) == 1


def test_a_rank_without_examples_from_the_start():
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, exchange="regions", verify_every=1)
        for step in range(3):
            optimizer.zero_grad()
            if world.rank:
                backward(module, seed=step)
            optimizer.step(examples=10 * world.rank)
        return weights(module).tobytes()

    assert len(set(run_ranks(fn, 3))) == 1


@pytest.mark.parametrize("options", [{"threshold_scope": "parameter"}, {"topology": "hosts"}])
def test_what_it_cannot_do_is_refused(options):
    def fn(world):
        with pytest.raises(ConfigurationError, match=next(iter(options))):
            SharedUpdates(sgd(make_module()), world, exchange="regions", **options)

    run_ranks(fn, 2)


def test_what_counts_as_sent_is_what_owners_let_through():
    def fn(world):
        exchange = exchange_of(CodedRegionExchange, world, 2000, FixedThresholdAlgorithm(2e-2))
        out = np.zeros(2000, np.float32)
        partly = 0
        for vector in vectors(world.rank, 5, 2000):
            before = out.copy()
            exchange.add_total(vector, out, 1.0, part=Part())
            moved = set(np.flatnonzero(out != before))
            own = {abs(code) - 1 for code in exchange._encoder.sent.tolist()}
            assert {abs(code) - 1 for code in exchange.sent.tolist()} == own & moved
            partly += 0 < len(own & moved) < len(own)
        return partly

    assert all(run_ranks(fn, 12))


def test_momentum_is_masked_where_this_rank_has_sent():
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, exchange="regions")
        backward(module, seed=world.rank)
        optimizer.step()
        momentum = torch.cat([optimizer.state[p]["momentum_buffer"].reshape(-1) for p in module.parameters()])
        sent = np.zeros(momentum.numel(), bool)
        sent[np.abs(optimizer._exchange.sent) - 1] = True
        assert sent.any()
        np.testing.assert_array_equal(momentum.numpy() == 0, sent)

    run_ranks(fn, 2)


@pytest.mark.parametrize("size", [6, 16])
@pytest.mark.parametrize("check", contract.CHECKS, ids=lambda check: check.__name__)
def test_laws_where_owners_hold_something_back(check, size):
    def make(world, n, phases):
        return CodedRegionExchange(world, Encoder(n, threshold_algorithm=FixedThresholdAlgorithm(1e-2)), 7, phases)

    check(make, size)


@pytest.mark.parametrize("size", [5, 16])
def test_a_region_in_which_few_codes_fall_is_not_forgotten(size):
    """One rank moves one element, as that of a rare word: all of it arrives."""

    def fn(world):
        exchange = exchange_of(CodedRegionExchange, world, 2000, FixedThresholdAlgorithm(0.1))
        out = np.zeros(2000, np.float32)
        for step in range(60):
            vector = np.zeros(2000, np.float32)
            vector[17] = 0.1 if world.rank == 0 and step < 40 else 0
            exchange.add_total(vector, out, 1.0, part=Part())
        return out[17]

    assert run_ranks(fn, size)[0] == pytest.approx(4, abs=0.11)


def test_what_all_ranks_send_at_once_arrives_and_what_is_held_drains():
    def fn(world):
        exchange = exchange_of(CodedRegionExchange, world, 2000, FixedThresholdAlgorithm(1.0))
        out, draw = np.zeros(2000, np.float32), np.random.default_rng(world.rank)
        put_in = np.zeros(2000)
        for step in range(90):
            vector = np.zeros(2000, np.float32)
            if step < 10:
                vector[:20] = 1.0
                vector[draw.choice(2000, 20, replace=False)] = 1.0
            put_in += vector
            exchange.add_total(vector, out, 1.0, part=Part())
        return put_in, out

    found = run_ranks(fn, 16)
    missing = np.abs(sum(each[0] for each in found) - found[0][1])
    assert missing.max() <= 1.0, "less than a code of a rank"


@pytest.mark.parametrize("damage", ["owner without residual", "owner of another length", "no encoder", "no count"])
def test_a_damaged_state_is_refused_and_changes_nothing(damage):
    def fn(world):
        exchange, out = exchange_of(CodedRegionExchange, world, 2000), np.zeros(2000, np.float32)
        exchange.add_total(next(vectors(world.rank, 1, 2000)), out, 1.0, part=Part())
        state = exchange_of(CodedRegionExchange, world, 2000).state_dict()
        owner = dict(state["owner"])
        if damage == "owner without residual":
            del owner["residual"]
        if damage == "owner of another length":
            owner["residual"] = owner["residual"][:-1]
        state["owner"] = owner
        if damage == "no encoder":
            state["encoder"] = None
        if damage == "no count":
            state["sent"] = "many"
        before = exchange.residual.tobytes()
        with pytest.raises(ConfigurationError):
            exchange.load_state_dict(state)
        assert exchange.residual.tobytes() == before
        assert exchange.residual.any()

    run_ranks(fn, 2)
