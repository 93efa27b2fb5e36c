"""What `SharedUpdates` hands on to its codec: each option is seen to act, on all ranks."""

import logging

import pytest
import torch

from contracts.problem import CLASSES, WIDTH, backward, make_module, shared_steps, weights
from hvdspark import (
    AdaptiveThresholdAlgorithm,
    FixedThresholdAlgorithm,
    SharedUpdates,
    TargetSparsityThresholdAlgorithm,
)
from hvdspark.collectives import run_ranks
from hvdspark.errors import ConfigurationError, RankMismatch

TARGET = TargetSparsityThresholdAlgorithm(sparsity_target=0.02)


def records_of(
    steps=4, ranks=2, module_of=make_module, groups_of=lambda module: module.parameters(), algorithm=TARGET, **options
):
    """Take some steps in encoding debug mode; return the records of each rank."""

    def fn(world):
        records = []
        module = module_of(seed=world.rank)
        optimizer = SharedUpdates(
            torch.optim.SGD(groups_of(module), lr=0.1, momentum=0.9),
            world,
            threshold_algorithm=algorithm,
            encoding_debug_mode=records.append,
            **options,
        )
        for step in range(steps):
            optimizer.zero_grad()
            backward(module, seed=10 * step + world.rank)
            optimizer.step()
        return records, weights(module).tobytes()

    found = run_ranks(fn, ranks)
    assert len({bits for _, bits in found}) == 1
    return [records for records, _ in found]


@pytest.mark.parametrize("encode", ["updates", "gradients"])
def test_magnitude(encode):
    for magnitude, larger in (("threshold", False), ("mean", True)):
        for records in records_of(magnitude=magnitude, encode=encode):
            sent = [record for record in records if record.codes > 3]
            assert sent
            assert all((record.magnitude > record.threshold) == larger for record in sent)
            assert all(record.magnitude <= 2 * record.threshold for record in sent)


@pytest.mark.parametrize("encode", ["updates", "gradients"])
def test_multiples(encode):
    options = {"encode": encode, "algorithm": FixedThresholdAlgorithm(1e-3)}
    for records in records_of(magnitude="multiples", **options):
        assert all(record.magnitude == record.threshold and 1.5 < record.multiple <= 8.0 for record in records)
    assert all(record.multiple == 1.0 for records in records_of(**options) for record in records)


def test_threshold_scope():
    def two_groups(module):
        return [{"params": list(module[0].parameters())}, {"params": list(module[2].parameters()), "lr": 1.0}]

    first, second = 16 * WIDTH + 16, CLASSES * 16 + CLASSES
    wanted = {
        "model": [first + second],
        "group": [first, second],
        "parameter": [16 * WIDTH, 16, CLASSES * 16, CLASSES],
    }
    for scope, sizes in wanted.items():
        for records in records_of(threshold_scope=scope, groups_of=two_groups):
            assert [record.elements for record in records[: len(sizes)]] == sizes
            last = records[-len(sizes) :]
            assert len({record.threshold for record in last}) == len(sizes), "each has a threshold of its own"


@pytest.mark.parametrize("scope", ["model", "parameter"])
def test_thresholds_are_equal_on_all_ranks_after_the_first_step(scope):
    found = records_of(steps=6, ranks=3, threshold_scope=scope)
    per_step = len(found[0]) // 6
    for step in range(2, 6):
        for group in range(per_step):
            records = [records[step * per_step + group] for records in found]
            # A small parameter may send 1/16 of itself: then its automatic start is taken again.
            before = [records[(step - 1) * per_step + group] for records in found]
            if all(record.density < 1 / 16 for record in before):
                assert len({record.threshold for record in records}) == 1


def test_the_debug_mode_logs_a_line_a_rank_and_step(caplog):
    caplog.set_level(logging.INFO, "hvdspark.encoding")

    def fn(world):
        shared_steps(world, 3, lambda step: [range(8), range(8, 16)], sgd_of, encoding_debug_mode=True)

    run_ranks(fn, 2)
    lines = sorted(record.getMessage() for record in caplog.records)
    assert [line[:13] for line in lines] == [f"rank {rank} step {step}" for rank in range(2) for step in range(3)]
    assert all("p99.9" in line and "tau" in line for line in lines)


def test_without_the_debug_mode_nothing_is_logged(caplog):
    caplog.set_level(logging.INFO, "hvdspark.encoding")
    run_ranks(lambda world: shared_steps(world, 2, lambda step: [range(8), range(8, 16)], sgd_of), 2)
    assert not caplog.records


def sgd_of(module):
    return torch.optim.SGD(module.parameters(), lr=0.1)


@pytest.mark.parametrize(
    "options",
    [
        {"magnitude": "median"},
        {"threshold_scope": "layer"},
        {"encoding_debug_mode": "yes"},
        {"exchange": "dense", "magnitude": "mean"},
        {"exchange": "dense", "magnitude": "multiples"},
        {"exchange": "dense", "threshold_scope": "group"},
        {"exchange": "dense", "encoding_debug_mode": True},
        {"exchange": "fp16", "magnitude": "mean"},
        {"exchange": "fp16", "momentum_masking": False},
    ],
)
def test_options_that_cannot_act_are_refused_by_name(options):
    def fn(world):
        with pytest.raises(ConfigurationError, match=list(options)[-1]):
            SharedUpdates(sgd_of(make_module()), world, **options)

    run_ranks(fn, 1)


@pytest.mark.parametrize("name", ["magnitude", "threshold_scope"])
def test_ranks_with_other_options_are_refused_together(name):
    def fn(world):
        value = {"magnitude": ("multiples", "threshold"), "threshold_scope": ("group", "model")}[name][world.rank]
        with pytest.raises(RankMismatch, match=name):
            SharedUpdates(sgd_of(make_module()), world, **{name: value})

    run_ranks(fn, 2)


def test_state_with_a_threshold_for_each_parameter_comes_back_bit_for_bit(tmp_path):
    def fn(world):
        def make():
            module = make_module(seed=0)
            options = {"threshold_scope": "parameter", "magnitude": "mean"}
            return module, SharedUpdates(
                sgd_of(module), world, threshold_algorithm=AdaptiveThresholdAlgorithm(), **options
            )

        def steps(module, optimizer, numbers):
            for step in numbers:
                optimizer.zero_grad()
                backward(module, seed=10 * step + world.rank)
                optimizer.step()

        module, optimizer = make()
        steps(module, optimizer, range(4))
        file = tmp_path / f"{world.rank}.pt"
        torch.save({"optimizer": optimizer.state_dict(), "module": module.state_dict()}, file)
        steps(module, optimizer, range(4, 8))
        other, restored = make()
        state = torch.load(file, weights_only=True)
        other.load_state_dict(state["module"])
        restored.load_state_dict(state["optimizer"])
        steps(other, restored, range(4, 8))
        assert weights(other).tobytes() == weights(module).tobytes()

    run_ranks(fn, 2)
