"""SharedUpdates is a torch Optimizer: schedulers, closures, groups, state, and what users do between steps."""

import copy
import io

import numpy as np
import pytest
import torch

from contracts.problem import WIDTH, backward, make_data, make_module, sgd, weights
from contracts.tensors import bits
from hvdspark import FixedThresholdAlgorithm, SharedUpdates, open_collective
from hvdspark.collectives import run_ranks
from hvdspark.errors import ConfigurationError, RankMismatch, UnsupportedError


def test_schedulers_act_on_it():
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module, lr=1.0), world)
        scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
        module(torch.ones(1, WIDTH)).sum().backward()
        optimizer.step()
        scheduler.step()
        return optimizer._optimizer.param_groups[0]["lr"]

    assert run_ranks(fn, 2) == [0.5, 0.5]


def test_closure_and_loss():
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world)
        x, y = make_data(8)

        def closure():
            optimizer.zero_grad()
            loss = torch.nn.functional.cross_entropy(module(x), y)
            loss.backward()
            return loss

        first = optimizer.step(closure).item()
        for _ in range(100):
            last = optimizer.step(closure).item()
        return first, last

    for first, last in run_ranks(fn, 2):
        assert last < first


def test_alone_it_is_the_optimizer_itself():
    def fn(module, optimizer):
        x, y = make_data(64)
        for _ in range(10):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(x), y).backward()
            optimizer.step()
        return weights(module)

    plain, wrapped = make_module(), make_module()
    with open_collective("solo") as world:
        shared = SharedUpdates(sgd(wrapped), world)
        expected, found = fn(plain, sgd(plain)), fn(wrapped, shared)
    assert expected.tobytes() == found.tobytes()
    assert shared.report().bytes_sent == 0


def test_state_comes_back_bit_for_bit():
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, threshold_algorithm=FixedThresholdAlgorithm(1e-3))
        x, y = make_data(64, seed=world.rank)

        def run(module, optimizer, steps):
            for _ in range(steps):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(module(x), y).backward()
                optimizer.step()
            return weights(module)

        run(module, optimizer, 5)
        state, middle = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(module.state_dict())
        expected = run(module, optimizer, 5)
        other = make_module(seed=9)
        other_optimizer = SharedUpdates(sgd(other), world, threshold_algorithm=FixedThresholdAlgorithm(1e-3))
        other.load_state_dict(middle)
        other_optimizer.load_state_dict(state)
        return expected.tobytes() == run(other, other_optimizer, 5).tobytes()

    assert run_ranks(fn, 2) == [True, True]


def test_report_counts_bytes():
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world)
        x, y = make_data(64)
        for _ in range(4):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(module(x), y).backward()
            optimizer.step()
        return optimizer.report(), len(weights(module))

    report, n = run_ranks(fn, 2)[0]
    assert report.steps == 4
    assert report.dense_bytes == 4 * 4 * n
    assert 4 * 64 <= report.bytes_sent < report.dense_bytes
    assert 0 < report.density < 0.5
    assert set(report.seconds) == {"update", "encode", "exchange", "decode", "apply"}
    assert f"{report.bytes_sent:,}" in str(report)


# ---- what users do to weights between steps stays done -------------------------------------------------------------


@pytest.mark.parametrize("encode", ["updates", "gradients"])
def test_weights_that_are_put_back_or_clipped_stay_so(encode):
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, encode=encode)
        best = copy.deepcopy(module.state_dict())
        start = weights(module)
        for _ in range(3):
            optimizer.zero_grad()
            backward(module, seed=world.rank)
            optimizer.step()
        module.load_state_dict(best)
        optimizer.param_groups[0]["lr"] = 0.0
        if encode == "updates":
            optimizer._exchange.residual[:] = 0
        optimizer.zero_grad()
        backward(module, seed=world.rank)
        optimizer.step()
        restored = weights(module)
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.data.clamp_(-0.01, 0.01)
        optimizer.step()
        return np.abs(restored - start).max(), np.abs(weights(module)).max()

    for apart, largest in run_ranks(fn, 2):
        assert apart < 1e-6
        assert largest <= 0.01 + 1e-6


def test_a_change_on_one_rank_alone_is_found_at_the_next_check():
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, verify_every=3)
        for step in range(3):
            if step == 1 and world.rank == 1:
                with torch.no_grad():
                    module[0].weight += 1
            backward(module)
            if step < 2:
                optimizer.step()
        with pytest.raises(RankMismatch, match="weights differ between ranks after step 3"):
            optimizer.step()

    run_ranks(fn, 2)


# ---- which parameters move -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("encode", ["updates", "gradients"])
@pytest.mark.parametrize("exchange", ["codec", "dense"])
def test_a_layer_without_gradients_is_left_alone_as_on_one_rank(encode, exchange):
    """Weight decay and momentum would move it."""

    def fn(world):
        module = make_module()
        unused = torch.nn.Parameter(torch.ones(3))
        own = torch.optim.SGD([*module.parameters(), unused], lr=0.1, momentum=0.9, weight_decay=0.1)
        optimizer = SharedUpdates(own, world, encode=encode, exchange=exchange)
        for step in range(4):
            optimizer.zero_grad()
            if step == 2:
                module[2].bias.requires_grad_(False)
                frozen = module[2].bias.detach().clone()
            if step != world.rank:  # a rank without rows in one step: in the first one, on rank 0
                backward(module, seed=world.rank)
            optimizer.step(examples=int(step != world.rank))
        assert torch.equal(module[2].bias, frozen)
        return unused.tolist()

    assert run_ranks(fn, 2) == [[1.0] * 3] * 2


def test_a_layer_that_is_used_later_joins():
    """With gradients on both ranks from the third step on, it moves as it does in one process."""

    def steps(module, extra, optimizer):
        x, y = make_data(64)
        for step in range(8):
            optimizer.zero_grad()
            output = module(x) if step < 2 else module(x) * extra
            torch.nn.functional.cross_entropy(output, y).backward()
            optimizer.step()
        return np.concatenate([weights(module), extra.detach().numpy()])

    def make():
        module, extra = make_module(), torch.nn.Parameter(torch.ones(1))
        return module, extra, torch.optim.SGD([*module.parameters(), extra], lr=0.1, momentum=0.9, weight_decay=1e-2)

    expected = steps(*make())
    for encode in ("updates", "gradients"):

        def fn(world, encode=encode):
            module, extra, own = make()
            return steps(module, extra, SharedUpdates(own, world, encode=encode, exchange="dense"))

        np.testing.assert_allclose(run_ranks(fn, 2)[0], expected, rtol=0, atol=1e-5)


def test_gradients_that_are_kept_as_zeros_add_up_as_ever():
    """zero_grad(set_to_none=False), and two backward passes a step."""

    def steps(module, optimizer):
        for _ in range(5):
            optimizer.zero_grad(set_to_none=False)
            backward(module, seed=1)
            backward(module, seed=2)
            optimizer.step()
        return weights(module)

    plain = make_module()
    expected = steps(plain, sgd(plain))
    for encode in ("updates", "gradients"):

        def fn(world, encode=encode):
            module = make_module()
            return steps(module, SharedUpdates(sgd(module), world, encode=encode, exchange="dense"))

        np.testing.assert_allclose(run_ranks(fn, 2)[0], expected, rtol=0, atol=1e-6)


def test_frozen_and_named_weights_are_broadcast_too():
    def fn(world):
        module = make_module(seed=world.rank)
        module[0].weight.requires_grad_(False)
        head = torch.nn.Linear(4, 2).double()
        with torch.no_grad():
            head.weight.fill_(world.rank)
        own = torch.optim.SGD(module.parameters(), lr=0.1)
        named = [*module.named_parameters(), *head.named_parameters("head")]
        SharedUpdates(own, world, named_parameters=named)
        return weights(module).tobytes(), head.weight.sum().item()

    found = run_ranks(fn, 2)
    assert found[0] == found[1]
    assert found[0][1] == 0.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_float32_weights_train_beside_frozen_ones_of_16_bits(dtype):
    """As in fine-tuning: most weights are frozen and narrow, a head is trained, the forward pass is autocast."""

    def fn(world):
        body = make_module(seed=world.rank).to(dtype).requires_grad_(False)
        torch.manual_seed(world.rank)
        head = torch.nn.Linear(4, 2)
        named = [*body.named_parameters("body"), *head.named_parameters("head")]
        optimizer = SharedUpdates(torch.optim.SGD(head.parameters(), lr=0.1), world, named_parameters=named)
        before = [bits(parameter) for parameter in (*body.parameters(), *head.parameters())]
        for step in range(5):
            optimizer.zero_grad()
            x = torch.from_numpy(np.random.default_rng([step, world.rank]).normal(size=(8, 12)).astype(np.float32))
            with torch.autocast("cpu", dtype=dtype):
                loss = head(body(x)).float().square().mean()
            loss.backward()
            optimizer.step()
        assert all(parameter.dtype == dtype for parameter in body.parameters())
        return before, [bits(parameter) for parameter in (*body.parameters(), *head.parameters())]

    (before, after), other = run_ranks(fn, 2)
    assert other == (before, after)
    assert after[:-2] == before[:-2]
    assert after[-2] != before[-2]


def test_tied_weights_and_empty_parameters_count_once_or_nothing():
    def fn(world):
        encoder, decoder = torch.nn.Linear(4, 4, bias=False), torch.nn.Linear(4, 4, bias=False)
        decoder.weight = encoder.weight
        own = torch.optim.SGD([{"params": [encoder.weight]}, {"params": [torch.nn.Parameter(torch.empty(0))]}], lr=0.1)
        optimizer = SharedUpdates(own, world)
        for _ in range(3):
            decoder(encoder(torch.ones(1, 4))).sum().backward()
            optimizer.step()
        assert decoder.weight is encoder.weight
        return optimizer.report().dense_bytes // (3 * 4)

    assert run_ranks(fn, 2) == [16, 16]


# ---- state ---------------------------------------------------------------------------------------------------------


def test_state_survives_a_file_that_is_not_trusted():
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world)
        backward(module, seed=world.rank)
        optimizer.step()
        file = io.BytesIO()
        torch.save(optimizer.state_dict(), file)
        file.seek(0)
        state = torch.load(file, weights_only=True)
        optimizer.load_state_dict(state)
        return np.array_equal(state["exchange"]["encoder"]["residual"].numpy(), optimizer._exchange.residual)

    assert run_ranks(fn, 2) == [True, True]


def test_a_strange_state_is_refused_and_changes_nothing():
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world)
        backward(module)
        optimizer.step()
        state = optimizer.state_dict()
        other = torch.optim.SGD(make_module().parameters(), lr=0.5)
        dense = SharedUpdates(other, world, exchange="dense")
        mixed = {**state, "optimizer": {"state": {}, "param_groups": []}}
        for wrong, words in (
            (other.state_dict(), "has the keys"),
            (dense.state_dict(), 'exchange="dense"'),
            ({**state, "rank": 1 - world.rank}, "each rank"),
            (mixed, "another optimizer"),
            ({**state, "exchange": {**state["exchange"], "encoder": {"n": 1}}}, "keys"),
        ):
            with pytest.raises(ConfigurationError, match=words):
                optimizer.load_state_dict(wrong)
        assert optimizer.param_groups[0]["lr"] == 0.1
        assert torch.equal(
            optimizer.state_dict()["exchange"]["encoder"]["residual"], state["exchange"]["encoder"]["residual"]
        )

    run_ranks(fn, 2)


def test_groups_stay_one_when_the_wrapped_optimizer_loads_a_state():
    with open_collective("solo") as world:
        module = make_module()
        own = sgd(module)
        optimizer = SharedUpdates(own, world)
        own.load_state_dict(own.state_dict())
        optimizer.param_groups[0]["lr"] = 0.7
        assert own.param_groups[0]["lr"] == 0.7
        assert optimizer.state is own.state


def test_copies_are_refused():
    with open_collective("solo") as world:
        optimizer = SharedUpdates(sgd(make_module()), world)
        with pytest.raises(UnsupportedError, match=r"state_dict\(\)"):
            copy.deepcopy(optimizer)


def test_density_is_that_of_what_was_sent():
    def fn(world):
        module = make_module()
        optimizer = SharedUpdates(sgd(module), world, threshold_algorithm=FixedThresholdAlgorithm(1e-12))
        backward(module)
        optimizer.step()
        return optimizer.report().density

    assert min(run_ranks(fn, 2)) > 0.9
