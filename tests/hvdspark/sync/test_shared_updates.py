"""Laws 1 to 3 of the design, on SharedUpdates over ranks that are threads."""

import copy
import functools
import itertools
import threading

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from hvdspark import FixedThresholdAlgorithm, ResidualClippingPostProcessor, SharedUpdates, open_collective
from hvdspark.collectives import run_ranks
from hvdspark.errors import ConfigurationError, ModelError, NonFiniteError, RankMismatch, UnsupportedError

WIDTH, CLASSES = 12, 4


_SEEDING = threading.Lock()  # torch has one generator for all threads


def make_module(seed=0):
    with _SEEDING:
        torch.manual_seed(seed)
        return _module()


def _module():
    return torch.nn.Sequential(torch.nn.Linear(WIDTH, 16), torch.nn.Tanh(), torch.nn.Linear(16, CLASSES))


def make_data(rows, seed=1):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, WIDTH, generator=generator)
    return x, (x[:, :CLASSES] + 0.3 * torch.randn(rows, CLASSES, generator=generator)).argmax(dim=1)


def sgd(module, lr=0.1, momentum=0.9, weight_decay=1e-3):
    return torch.optim.SGD(module.parameters(), lr=lr, momentum=momentum, weight_decay=weight_decay)


def weights(module):
    return torch.cat([p.detach().reshape(-1) for p in module.parameters()]).numpy().copy()


def shared_steps(world, steps, pieces, make_optimizer, **options):
    """Train `steps` steps; `pieces(step)` gives for each rank the rows of its part; return the weights."""
    module = make_module(seed=world.rank)  # ranks start apart: rank 0's weights count
    optimizer = SharedUpdates(make_optimizer(module), world, **options)
    x, y = make_data(64)
    for step in range(steps):
        rows = pieces(step)[world.rank]
        total = sum(len(part) for part in pieces(step))
        optimizer.zero_grad()
        if len(rows):
            torch.nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
        optimizer.step(examples=len(rows), total_examples=total)
    return weights(module)


def alone(steps, pieces, make_optimizer):
    """The oracle: one process, the whole batch, plain torch."""
    module = make_module(seed=0)
    optimizer = make_optimizer(module)
    x, y = make_data(64)
    for step in range(steps):
        rows = np.concatenate([np.asarray(part, dtype=np.int64) for part in pieces(step)])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
        optimizer.step()
    return weights(module)


def even(size):
    return lambda step: [np.arange(r * 8, r * 8 + 8) for r in range(size)]


def ragged(sizes):
    """Parts of these sizes, another order of sizes every step."""

    def pieces(step):
        order = sizes[step % len(sizes) :] + sizes[: step % len(sizes)]
        edges = np.cumsum([0, *order])
        return [np.arange(a, b) for a, b in itertools.pairwise(edges)]

    return pieces


class TestLaw3NullCodecEqualsOneProcess:
    @pytest.mark.parametrize("encode", ["updates", "gradients"])
    def test_sgd_with_momentum_and_weight_decay(self, encode):
        found = run_ranks(functools.partial(shared_steps, exchange="dense", encode=encode), 2, 20, even(2), sgd)
        np.testing.assert_allclose(found[0], alone(20, even(2), sgd), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop])
    def test_gradients_mode_with_any_optimizer(self, optimizer):
        def make(module):
            return optimizer(module.parameters(), lr=1e-3)

        found = run_ranks(functools.partial(shared_steps, exchange="dense", encode="gradients"), 3, 20, even(3), make)
        np.testing.assert_allclose(found[0], alone(20, even(3), make), rtol=0, atol=1e-5)

    @pytest.mark.parametrize("encode", ["updates", "gradients"])
    @pytest.mark.parametrize("sizes", [[5, 3], [8, 1, 4], [6, 0], [0, 0, 7]])
    def test_uneven_parts_and_ranks_without_rows(self, encode, sizes):
        found = run_ranks(
            functools.partial(shared_steps, exchange="dense", encode=encode), len(sizes), 20, ragged(sizes), sgd
        )
        np.testing.assert_allclose(found[0], alone(20, ragged(sizes), sgd), rtol=0, atol=1e-6)

    def test_counts_are_found_where_the_caller_does_not_know_them(self):
        def fn(world):
            module = make_module()
            optimizer = SharedUpdates(sgd(module), world, exchange="dense")
            x, y = make_data(64)
            rows = ragged([5, 3])(0)[world.rank]
            torch.nn.functional.cross_entropy(module(x[rows]), y[rows]).backward()
            optimizer.step(examples=len(rows))
            return weights(module)

        np.testing.assert_allclose(run_ranks(fn, 2)[0], alone(1, ragged([5, 3]), sgd), rtol=0, atol=1e-6)

    def test_sum_adds_what_mean_averages(self):
        found = run_ranks(functools.partial(shared_steps, exchange="dense", combine="sum"), 2, 1, even(2), sgd)[0]
        start, mean = weights(make_module()), alone(1, even(2), sgd)
        np.testing.assert_allclose(found - start, 2 * (mean - start), rtol=0, atol=1e-6)


class TestLaw2AllRanksAgree:
    @settings(max_examples=15, deadline=None)
    @given(
        size=st.integers(2, 4),
        encode=st.sampled_from(["updates", "gradients"]),
        combine=st.sampled_from(["mean", "sum"]),
        tau=st.sampled_from([1e-4, 1e-3, 1e-2]),
    )
    def test_bit_for_bit_after_every_step(self, size, encode, combine, tau):
        def fn(world):
            module = make_module(seed=world.rank)
            optimizer = SharedUpdates(
                sgd(module, lr=0.02),
                world,
                threshold_algorithm=FixedThresholdAlgorithm(tau),
                encode=encode,
                combine=combine,
                verify_every=1,
            )
            x, y = make_data(64, seed=world.rank)
            prints = []
            for _ in range(8):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(module(x), y).backward()
                optimizer.step()
                prints.append(optimizer.fingerprint())
            return prints

        prints = run_ranks(fn, size)
        assert all(each == prints[0] for each in prints)
        assert len(set(prints[0])) > 1, "nothing was learnt"

    def test_200_steps_with_the_defaults(self):
        found = run_ranks(shared_steps, 3, 200, even(3), lambda m: sgd(m, lr=0.03))
        assert found[0].tobytes() == found[1].tobytes() == found[2].tobytes()
        x, y = (part[:24] for part in make_data(64))  # what was trained on
        module = make_module()
        torch.nn.utils.vector_to_parameters(torch.from_numpy(found[0]), module.parameters())
        assert (module(x).argmax(1) == y).float().mean() > 0.9

    def test_a_weight_changed_behind_its_back_is_found_by_all(self):
        def fn(world):
            module = make_module()
            optimizer = SharedUpdates(sgd(module), world)
            if world.rank == 1:
                with torch.no_grad():
                    module[0].weight[0, 0] += 1
            with pytest.raises(RankMismatch, match="weights differ"):
                optimizer.verify()

        run_ranks(fn, 2)


class TestLaw1NothingIsLost:
    @pytest.mark.parametrize("encode", ["updates", "gradients"])
    def test_what_was_sent_plus_the_residuals_is_what_the_optimizers_made(self, encode):
        """Over 60 steps, against a float64 shadow of what each rank put in."""

        def fn(world):
            module = make_module()
            own = torch.optim.SGD(module.parameters(), lr=0.05)
            options = {"threshold_algorithm": FixedThresholdAlgorithm(2e-3), "residual_post_processor": None}
            optimizer = SharedUpdates(own, world, encode=encode, **options)
            x, y = make_data(64, seed=world.rank)
            put_in, start = np.zeros(len(weights(module))), weights(module).astype(np.float64)
            for _ in range(60):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(module(x), y).backward()
                gradient = torch.cat([p.grad.reshape(-1) for p in module.parameters()]).numpy()
                put_in += gradient.astype(np.float64) * (0.05 if encode == "updates" else 1.0)
                optimizer.step()
            residual = optimizer._exchange.residual.astype(np.float64)
            moved = start - weights(module)
            return put_in, residual, moved

        found = run_ranks(fn, 2)
        put_in = sum(each[0] for each in found) / 2
        residual = sum(each[1] for each in found) / 2
        moved = found[0][2] / (1.0 if encode == "updates" else 0.05)
        np.testing.assert_allclose(moved + residual, put_in, rtol=0, atol=2e-5 * np.abs(put_in).max() + 2e-6)
        assert np.abs(residual).max() > 0

    def test_clipping_is_counted(self):
        def fn(world):
            module = make_module()
            optimizer = SharedUpdates(
                sgd(module, lr=0.5),
                world,
                threshold_algorithm=FixedThresholdAlgorithm(1e-3),
                residual_post_processor=ResidualClippingPostProcessor(1.0, 1),
            )
            x, y = make_data(64)
            for _ in range(5):
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(module(x), y).backward()
                optimizer.step()
            return optimizer.report().clipped_mass

        assert min(run_ranks(fn, 2)) > 0


class TestAsATorchOptimizer:
    def test_schedulers_act_on_it(self):
        def fn(world):
            module = make_module()
            optimizer = SharedUpdates(sgd(module, lr=1.0), world)
            scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
            module(torch.ones(1, WIDTH)).sum().backward()
            optimizer.step()
            scheduler.step()
            return optimizer._optimizer.param_groups[0]["lr"]

        assert run_ranks(fn, 2) == [0.5, 0.5]

    def test_closure_and_loss(self):
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

    def test_alone_it_is_the_optimizer_itself(self):
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

    def test_state_comes_back_bit_for_bit(self):
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

    def test_report_counts_bytes(self):
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


class TestRefusals:
    def test_options_that_are_no_choice(self):
        with (
            open_collective("solo") as world,
            pytest.raises(ConfigurationError, match=r"encode.*'updates', 'gradients'"),
        ):
            SharedUpdates(sgd(make_module()), world, encode="update")

    def test_ranks_with_other_options_or_shapes_all_refuse(self):
        def fn(world):
            module = make_module() if world.rank == 0 else torch.nn.Linear(3, 2)
            with pytest.raises(RankMismatch, match="parameter shapes"):
                SharedUpdates(sgd(module), world)
            with pytest.raises(RankMismatch, match="combine: rank 0: mean, rank 1: sum"):
                SharedUpdates(sgd(make_module()), world, combine="mean" if world.rank == 0 else "sum")

        run_ranks(fn, 2)

    def test_lbfgs(self):
        with open_collective("solo") as world, pytest.raises(UnsupportedError, match="LBFGS"):
            SharedUpdates(torch.optim.LBFGS(make_module().parameters()), world)

    def test_half_precision_weights(self):
        with open_collective("solo") as world, pytest.raises(UnsupportedError, match=r"float32.*float16"):
            SharedUpdates(sgd(make_module().half()), world)

    def test_a_module_moved_afterwards(self):
        with open_collective("solo") as world:
            module = make_module()
            optimizer = SharedUpdates(sgd(module), world)
            module.double().float()
            module(torch.ones(1, WIDTH)).sum().backward()
            with pytest.raises(ModelError, match="moved or replaced"):
                optimizer.step()

    def test_sparse_embeddings(self):
        def fn(world):
            module = torch.nn.Embedding(5, 3, sparse=True)
            optimizer = SharedUpdates(torch.optim.SGD(module.parameters(), lr=0.1), world, encode="gradients")
            module(torch.tensor([1])).sum().backward()
            with pytest.raises(UnsupportedError, match="sparse=False"):
                optimizer.step()

        run_ranks(fn, 2)

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_a_nan_names_its_parameter(self, bad):
        def fn(world):
            module = make_module()
            optimizer = SharedUpdates(sgd(module), world, named_parameters=module.named_parameters())
            module(torch.ones(1, WIDTH)).sum().backward()
            module[2].bias.grad[1] = bad
            with pytest.raises(NonFiniteError, match=r"2\.bias"):
                optimizer.step()

        run_ranks(fn, 2)

    def test_shared_and_frozen_parameters_count_once_or_not(self):
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
