"""The end of a period, without an optimizer: ranks move their weights by themselves, and meet."""

import numpy as np
import pytest
import torch

from contracts.problem import make_module, weights
from hvdspark import Nesterov
from hvdspark.collectives import run_ranks
from hvdspark.sync import Rules
from hvdspark.sync.dense import DenseExchange
from hvdspark.sync.flat import FlatParameters
from hvdspark.sync.meeting import Meeting
from hvdspark.sync.part import Part
from hvdspark.sync.phases import Phases
from hvdspark.sync.traffic import Traffic


def open_meeting(world, module, rules, *followers):
    flat, phases, traffic = FlatParameters(list(module.parameters())), Phases(), Traffic(world, None)
    exchange = DenseExchange(world, flat.n, phases)
    return Meeting(world, rules, flat, exchange, followers, traffic, phases), traffic


def move(module, by):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(by)


def fail_after(module):
    move(module, 1.0)
    raise ValueError("why")


def test_a_period_ends_at_the_mean_over_examples():
    def fn(world):
        module, heard = make_module(), []
        meeting, traffic = open_meeting(world, module, Rules(schedule=((0, 2),)), heard.append)
        start = weights(module)
        for step in range(2):
            period = meeting.begin(step)
            move(module, world.rank + 1.0)
            period.add(Part(1 + 2 * world.rank))
        assert period.is_over
        meeting.meet(period)
        assert (meeting.period, traffic.exchanges) == (None, 1)
        assert heard == [pytest.approx(2 * (1 + 2 * world.rank) / 4)]
        np.testing.assert_allclose(weights(module) - start, (2.0 * 1 + 4.0 * 3) / 4, rtol=0, atol=1e-5)
        return weights(module).tobytes()

    assert len(set(run_ranks(fn, 2))) == 1


def test_what_was_moved_since_the_last_agreement_is_undone_on_an_error():
    def fn(world):
        module = make_module()
        meeting, traffic = open_meeting(world, module, Rules(schedule=((0, 3),)))
        start = weights(module)
        meeting.begin(0).add(Part())
        move(module, 1.0)
        meeting.begin(1)
        with pytest.raises(ValueError, match="why"), meeting.undone_on_error():
            fail_after(module)
        assert weights(module).tobytes() == start.tobytes()
        assert (meeting.period, traffic.exchanges) == (None, 0)

    run_ranks(fn, 2)


def test_the_outer_optimizer_is_given_the_mean_difference():
    def fn(world):
        module = make_module()
        meeting, _ = open_meeting(world, module, Rules(outer=Nesterov(0.5, 0.0)))
        start = weights(module)
        period = meeting.begin(0)
        move(module, 1.0 + 2 * world.rank)
        period.add(Part())
        meeting.meet(period)
        np.testing.assert_allclose(weights(module) - start, 0.5 * 2.0, rtol=0, atol=1e-6)

    run_ranks(fn, 2)


def test_late_nothing_moves_before_it_lands():
    def fn(world):
        module = make_module()
        meeting, traffic = open_meeting(world, module, Rules(overlap="next_step"))
        start = weights(module)
        period = meeting.begin(0)
        move(module, 1.0 + 2 * world.rank)
        period.add(Part())
        meeting.meet(period)
        meeting.launch()
        assert weights(module).tobytes() == start.tobytes()
        assert traffic.exchanges == 0
        meeting.land()
        meeting.land()  # there is nothing more
        np.testing.assert_allclose(weights(module) - start, 2.0, rtol=0, atol=1e-6)
        assert traffic.exchanges == 1

    run_ranks(fn, 2)
