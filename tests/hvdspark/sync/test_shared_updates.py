"""Laws 1 to 3 of the design, on SharedUpdates over ranks that are threads."""

import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.problem import alone, even, make_data, make_module, ragged, sgd, shared_steps, weights
from hvdspark import FixedThresholdAlgorithm, ResidualClippingPostProcessor, SharedUpdates
from hvdspark.collectives import run_ranks
from hvdspark.errors import RankMismatch


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
