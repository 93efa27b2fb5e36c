"""The loss over epochs, and a bar a rank of what its steps consist of: shapes, in pixels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hvdspark.stats.colours import in_order
from hvdspark.stats.diagnosis import MeanStep

__all__ = ["Bar", "Curve", "LossChart", "Segment", "bars", "loss_chart"]

_WIDTH, _HEIGHT = 760.0, 180.0
_NAMES = {"score": "training", "validation_score": "validation"}


@dataclasses.dataclass(frozen=True)
class Curve:
    """One score over the epochs."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclasses.dataclass(frozen=True)
class LossChart:
    """Curves, and the ticks of both axes: (place, text)."""

    curves: tuple[Curve, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]
    width: float = _WIDTH
    height: float = _HEIGHT


@dataclasses.dataclass(frozen=True)
class Segment:
    """A part of a bar."""

    name: str
    x: float
    width: float
    title: str
    label: str


@dataclasses.dataclass(frozen=True)
class Bar:
    """The mean step of a rank."""

    rank: int
    text: str
    segments: tuple[Segment, ...]


def loss_chart(history: Sequence[Mapping[str, Any]]) -> LossChart | None:
    """Lay out the scores; None where fewer than two epochs have one."""
    found = {name: [_number(epoch.get(name)) for epoch in history] for name in _NAMES}
    values = [value for scores in found.values() for value in scores if math.isfinite(value)]
    if len(history) < 2 or len(values) < 2:
        return None
    low, high = min(values), max(values)
    if high == low:
        low, high = low - 0.5, high + 0.5
    curves = []
    for name, scores in found.items():
        points = tuple(
            (round(i / (len(history) - 1) * _WIDTH, 2), round((high - value) / (high - low) * _HEIGHT, 2))
            for i, value in enumerate(scores)
            if math.isfinite(value)
        )
        if points:
            curves.append(Curve(_NAMES[name], points))
    every = math.ceil(len(history) / 12)
    x_ticks = tuple(
        (round(i / (len(history) - 1) * _WIDTH, 2), str(history[i].get("epoch", i) + 1))
        for i in range(0, len(history), every)
    )
    y_ticks = tuple((_HEIGHT * k / 4, f"{high - (high - low) * k / 4:.4g}") for k in range(5))
    return LossChart(tuple(curves), x_ticks, y_ticks)


def bars(steps: Sequence[MeanStep]) -> tuple[Bar, ...]:
    """Lay out a bar a rank on one scale, a segment a phase, and what is in none of them at its end."""
    longest = max((step.seconds for step in steps), default=0.0)
    return tuple(_bar(step, _WIDTH / longest) for step in steps)


def _bar(step: MeanStep, scale: float) -> Bar:
    x, segments = 0.0, []
    others = max(step.seconds - sum(step.phases.values()), 0.0)
    for name, seconds in [*((name, step.phases[name]) for name in in_order(step.phases)), ("other", others)]:
        width = seconds * scale
        title = f"{name.replace('_', ' ')}: {seconds * 1e3:.3g} ms, {seconds / step.seconds:.0%}"
        label = f"{seconds / step.seconds:.0%}"
        segments.append(Segment(name, round(x, 2), round(width, 2), title, label if width > 32 else ""))
        x += width
    return Bar(step.rank, f"{step.seconds * 1e3:.3g} ms", tuple(segments))


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
