"""What cannot be shared is refused: by name, on all ranks, and the weights are as before."""

import numpy as np
import pytest
import torch

from contracts.problem import CLASSES, WIDTH, backward, make_module, sgd, weights
from hvdspark import FixedThresholdAlgorithm, SharedUpdates, open_collective
from hvdspark.collectives import run_ranks
from hvdspark.collectives.threads import ThreadsCollective
from hvdspark.errors import (
    ConfigurationError,
    ModelError,
    NonFiniteError,
    RankLost,
    RankMismatch,
    UnsupportedError,
)


def test_options_that_are_no_choice():
    with (
        open_collective("solo") as world,
        pytest.raises(ConfigurationError, match=r"encode.*'updates', 'gradients'"),
    ):
        SharedUpdates(sgd(make_module()), world, encode="update")


def test_ranks_with_other_options_or_shapes_all_refuse():
    def fn(world):
        module = make_module() if world.rank == 0 else torch.nn.Linear(3, 2)
        with pytest.raises(RankMismatch, match="parameter shapes"):
            SharedUpdates(sgd(module), world)
        with pytest.raises(RankMismatch, match="combine: rank 0: mean, rank 1: sum"):
            SharedUpdates(sgd(make_module()), world, combine="mean" if world.rank == 0 else "sum")

    run_ranks(fn, 2)


def test_lbfgs():
    with open_collective("solo") as world, pytest.raises(UnsupportedError, match="LBFGS"):
        SharedUpdates(torch.optim.LBFGS(make_module().parameters()), world)


def test_half_precision_weights():
    with open_collective("solo") as world, pytest.raises(UnsupportedError, match=r"float32.*float16"):
        SharedUpdates(sgd(make_module().half()), world)


def test_a_module_moved_afterwards():
    with open_collective("solo") as world:
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world)
        module.double().float()
        module(torch.ones(1, WIDTH)).sum().backward()
        with pytest.raises(ModelError, match="moved or replaced"):
            optimizer.step()


def test_sparse_embeddings():
    def fn(world):
        module = torch.nn.Embedding(5, 3, sparse=True)
        optimizer = SharedUpdates(torch.optim.SGD(module.parameters(), lr=0.1), world, encode="gradients")
        module(torch.tensor([1])).sum().backward()
        with pytest.raises(UnsupportedError, match="sparse=False"):
            optimizer.step()

    run_ranks(fn, 2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_nan_names_its_parameter(bad):
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, named_parameters=module.named_parameters())
        module(torch.ones(1, WIDTH)).sum().backward()
        module[2].bias.grad[1] = bad
        with pytest.raises(NonFiniteError, match=r"2\.bias"):
            optimizer.step()

    run_ranks(fn, 2)


def test_shared_and_frozen_parameters_count_once_or_not():
    def fn(world):
        module = make_module()
        module[0].weight.requires_grad_(False)
        frozen = module[0].weight.clone()
        optimizer = SharedUpdates(
            torch.optim.SGD([{"params": module[0].parameters()}, {"params": module[2].parameters()}], lr=0.1), world
        )
        module(torch.ones(1, WIDTH)).sum().backward()
        optimizer.step()
        assert torch.equal(frozen, module[0].weight)
        return optimizer.report().dense_bytes // 4

    assert run_ranks(fn, 2) == [16 + 16 * CLASSES + CLASSES] * 2


def test_a_nan_on_one_rank_is_told_to_all_and_no_weight_moves():
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, named_parameters=module.named_parameters())
        backward(module, seed=world.rank)
        optimizer.step()
        before = weights(module)
        optimizer.zero_grad()
        backward(module, seed=world.rank)
        if world.rank == 1:
            module[2].bias.grad[1] = float("nan")
        with pytest.raises(NonFiniteError if world.rank == 1 else RankLost, match=r"2\.bias"):
            optimizer.step()
        assert weights(module).tobytes() == before.tobytes()
        if world.rank == 1:
            optimizer.state.clear()  # the momentum holds NaN
        optimizer.zero_grad()
        backward(module, seed=world.rank)
        optimizer.step()
        return weights(module).tobytes()

    found = run_ranks(fn, 2)
    assert found[0] == found[1]


def test_a_message_that_is_too_long_is_told_to_all_and_stays_in_the_residual(monkeypatch):
    limits = property(lambda world: 1000 if world.rank == 0 else 1 << 30)
    monkeypatch.setattr(ThreadsCollective, "max_message_bytes", limits)

    def fn(world):
        module = torch.nn.Linear(WIDTH, 800)
        options = {"threshold_algorithm": FixedThresholdAlgorithm(1e-9), "residual_post_processor": None}
        optimizer = SharedUpdates(torch.optim.SGD(module.parameters(), lr=1.0), world, **options)
        before = weights(module)
        generator = torch.Generator().manual_seed(world.rank)
        module(torch.randn(8, WIDTH, generator=generator)).square().mean().backward()
        gradient = torch.cat([p.grad.reshape(-1) for p in module.parameters()]).numpy()
        with pytest.raises(UnsupportedError if world.rank == 0 else RankLost, match="raise the threshold"):
            optimizer.step()
        assert weights(module).tobytes() == before.tobytes()
        np.testing.assert_allclose(optimizer._exchange.residual, gradient, atol=1e-6)

    run_ranks(fn, 2)


def test_a_rank_says_why_it_failed_also_where_the_others_were_faster():
    """They hear of it, raise, and are gone before its own exchange returns."""

    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world)
        allgather = world.allgather

        def lost(message):
            allgather(message)
            raise RankLost("a rank gave up")

        backward(module)
        if world.rank == 1:
            next(iter(module.parameters())).grad[0, 0] = np.nan
            world.allgather = lost
        with pytest.raises(NonFiniteError if world.rank == 1 else RankLost):
            optimizer.step()
        if world.rank == 1:
            del world.allgather

    run_ranks(fn, 2)


def test_a_parameter_unfrozen_or_added_later():
    with open_collective("solo") as world:
        module = make_module()
        module[0].weight.requires_grad_(False)
        own = torch.optim.SGD(module.parameters(), lr=0.1)
        optimizer = SharedUpdates(own, world)
        with pytest.raises(UnsupportedError, match="wrap it again"):
            optimizer.add_param_group({"params": [torch.nn.Parameter(torch.ones(1))]})
        module[0].weight.requires_grad_(True)
        with pytest.raises(ModelError, match=r"\[16, 12\] was unfrozen or added"):
            optimizer.step()
        module[0].weight.requires_grad_(False)
        optimizer.step()
        own.add_param_group({"params": [torch.nn.Parameter(torch.ones(7))]})
        with pytest.raises(ModelError, match=r"\[7\] was unfrozen or added"):
            optimizer.step()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"examples": -8}, "not -8"),
        ({"examples": 16.0}, r"not 16\.0"),
        ({"examples": True}, "not True"),
        ({"examples": 3, "total_examples": 2}, "more examples than all ranks"),
        ({"total_examples": 2}, "needs examples"),
    ],
)
def test_counts_that_are_none(given, words):
    with open_collective("solo") as world:
        module = make_module()
        before = weights(module)
        optimizer = SharedUpdates(sgd(module), world)
        backward(module)
        with pytest.raises(ConfigurationError, match=words):
            optimizer.step(**given)
        assert weights(module).tobytes() == before.tobytes()


@pytest.mark.parametrize(
    ("rank_0", "rank_1", "words"),
    [
        ({"examples": 16, "total_examples": 16}, {"examples": 16, "total_examples": 16}, "add up to 32"),
        ({"examples": 16, "total_examples": 16}, {}, "on all ranks or on none"),
    ],
)
def test_counts_that_do_not_fit_together(rank_0, rank_1, words):
    def fn(world):
        module = make_module()
        before = weights(module)
        optimizer = SharedUpdates(sgd(module), world)
        backward(module)
        with pytest.raises(RankMismatch, match=words):
            optimizer.step(**(rank_0, rank_1)[world.rank])
        assert weights(module).tobytes() == before.tobytes()

    run_ranks(fn, 2)


def test_a_count_on_one_rank_only_says_so():
    def fn(world):
        module = make_module()
        before = weights(module)
        optimizer = SharedUpdates(sgd(module), world)
        backward(module)
        with pytest.raises(RankMismatch, match="not at the same operation") as caught:
            optimizer.step(examples=16) if world.rank == 0 else optimizer.step()
        if world.rank == 0:
            assert "on all ranks or on none" in caught.value.__notes__[0]
        assert weights(module).tobytes() == before.tobytes()

    run_ranks(fn, 2)


@pytest.mark.parametrize(
    "options",
    [
        {"threshold_algorithm": FixedThresholdAlgorithm(1e-3)},
        {"residual_post_processor": None},
        {"num_threads": 1},
    ],
)
def test_options_of_the_codec_where_nothing_is_coded(options):
    (name,) = options
    with open_collective("solo") as world, pytest.raises(ConfigurationError, match=f"{name} cannot act with exchange="):
        SharedUpdates(sgd(make_module()), world, exchange="dense", **options)


def test_options_of_the_wrong_kind():
    with open_collective("solo") as world:
        for name, value in (("threshold_algorithm", "auto"), ("residual_post_processor", 42)):
            for exchange in ("codec", "dense"):
                with pytest.raises(UnsupportedError, match=name):
                    SharedUpdates(sgd(make_module()), world, exchange=exchange, **{name: value})
        with pytest.raises(ConfigurationError, match="verify_every"):
            SharedUpdates(sgd(make_module()), world, verify_every=-1)


def test_checks_at_different_steps():
    def fn(world):
        with pytest.raises(RankMismatch, match="verify_every: rank 0: 0, rank 1: 1"):
            SharedUpdates(sgd(make_module()), world, verify_every=world.rank)

    run_ranks(fn, 2)
