"""What is drawn: shares of each slice of time, in the lane of their rank."""

import re

import numpy as np
import pytest

from contracts.recorded import read_back, recorded
from hvdspark.stats.charts import loss_chart
from hvdspark.stats.timeline import LANES, few_steps, whole_run

WORK = {"load": 0.01, "forward_backward": 0.03, "exchange": 0.02}


def surface(path):
    """Return the surface of a lane's shape, and the places of its borders."""
    found = re.findall(r"M(\S+) (\S+)H(\S+)V(\S+)H(\S+)Z", path)
    boxes = np.array(found, float)
    return ((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum(), boxes


@pytest.mark.parametrize("limit", [10_000, 64])
def test_surfaces_are_shares_of_the_time(tmp_path, limit):
    """Also where only one of many steps was kept: they stand for the others."""
    traces = read_back(tmp_path, [recorded([WORK] * 300, limit=limit, start=1.0, gap=0.0)])
    assert (traces[0].stride > 1) == (limit == 64)
    _, lane = whole_run((), traces).lanes
    surfaces = {area.name: surface(area.path)[0] for area in lane.areas}
    whole = surfaces["load"] + surfaces["forward_backward"] + surfaces["exchange"]
    for name, seconds in WORK.items():
        assert surfaces[name] / whole == pytest.approx(seconds / 0.06, rel=0.1), name
    for area in lane.areas:
        boxes = surface(area.path)[1]
        assert boxes[:, [0, 2]].min() >= 0
        assert boxes[:, [0, 2]].max() <= 760.1
        assert lane.y - 0.1 <= boxes[:, [1, 3]].min()
        assert boxes[:, [1, 3]].max() <= lane.y + 20.1


def test_a_few_steps_are_drawn_phase_by_phase_for_the_first_ranks(tmp_path):
    traces = read_back(tmp_path, [recorded([WORK] * 12) for _ in range(LANES + 3)])
    found = few_steps(traces)
    assert len(found.lanes) == LANES
    assert [box.name for box in found.lanes[0].boxes] == ["load", "forward_backward", "exchange"] * 3
    for lane in found.lanes:
        for box in lane.boxes:
            assert 0 <= box.x <= box.x + box.width <= found.width + 0.5
    assert few_steps(read_back(tmp_path, [recorded([WORK] * 3)])) is None


def test_losses_that_are_not_finite_leave_a_gap():
    history = [{"epoch": i, "score": score} for i, score in enumerate([1.0, float("nan"), 0.5])]
    (curve,) = loss_chart(history).curves
    assert [x for x, _ in curve.points] == [0.0, 760.0]
    assert loss_chart(history[:2]) is None
    assert loss_chart([{"epoch": 0, "score": 1.0}, {"epoch": 1, "score": 1.0}]).curves[0].points[0][1] == 90.0
