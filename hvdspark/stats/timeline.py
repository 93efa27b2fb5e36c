"""Timelines as shapes: what each lane shows, in pixels; report.py writes them as SVG."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hvdspark.stats.colours import in_order
from hvdspark.stats.recorder import RARE
from hvdspark.stats.spans import DriverSpan, RankTrace

__all__ = ["LANES", "Area", "Box", "Lane", "Timeline", "few_steps", "whole_run"]

#: How many ranks are drawn.
LANES = 16
_WIDTH, _HEIGHT, _SLICES = 760.0, 20.0, 190
_MS = 1_000_000

Shares = NDArray[np.float64]  # of each slice, `[slices]`


@dataclasses.dataclass(frozen=True)
class Box:
    """One phase, where it can be seen by itself."""

    name: str
    x: float
    y: float
    width: float
    height: float
    title: str
    label: str


@dataclasses.dataclass(frozen=True)
class Area:
    """One phase's share of each slice of time."""

    name: str
    path: str


@dataclasses.dataclass(frozen=True)
class Lane:
    """A line of a timeline."""

    name: str
    y: float
    boxes: tuple[Box, ...] = ()
    areas: tuple[Area, ...] = ()


@dataclasses.dataclass(frozen=True)
class Timeline:
    """All lanes, and the ticks of their axis: (x, text)."""

    lanes: tuple[Lane, ...]
    ticks: tuple[tuple[float, str], ...]
    names: tuple[str, ...]
    height: float
    width: float = _WIDTH


def whole_run(driver: Sequence[DriverSpan], traces: Sequence[RankTrace]) -> Timeline:
    """Lay out the whole fit: the driver's phases, then of each rank what share of each moment a phase took."""
    spans = [trace.spans for trace in traces[:LANES] if trace.spans.size]
    end_ns = (
        max([each.end_s * 1e9 for each in driver] + [float(each["end"].max()) for each in spans], default=1.0) or 1.0
    )
    scale = _WIDTH / end_ns
    boxes = tuple(
        _box(
            each.name, each.begin_s * 1e9, each.end_s * 1e9, 0, scale, f"{each.name}: {each.end_s - each.begin_s:.3g} s"
        )
        for each in driver
    )
    lanes = [Lane("driver", 0, boxes)]
    for trace in traces[:LANES]:
        for track in sorted(set(trace.spans["track"].tolist())):
            y = len(lanes) * (_HEIGHT + 6)
            lanes.append(Lane(_lane_name(trace, track), y, areas=_areas(trace, track, scale, y)))
    names = [box.name for box in boxes] + [area.name for lane in lanes for area in lane.areas]
    return Timeline(tuple(lanes), _ticks(end_ns / 1e9, "s"), tuple(in_order(names)), len(lanes) * (_HEIGHT + 6))


def few_steps(traces: Sequence[RankTrace]) -> Timeline | None:
    """Lay out three steps of usual length (one, where not all were kept) on all ranks, phase by phase."""
    window = _usual_steps(traces)
    if window is None:
        return None
    first, last = window
    scale = _WIDTH / (last - first)
    lanes: list[Lane] = []
    for trace in traces[:LANES]:
        spans = trace.spans[(trace.spans["end"] > first) & (trace.spans["begin"] < last)]
        for track in sorted(set(trace.spans["track"].tolist())):
            y = len(lanes) * (_HEIGHT + 6)
            own = [each for each in spans[spans["track"] == track].tolist() if trace.names[each[0]] != "step"]
            boxes = []
            for name, _, _, begin, end in own:
                if (end - begin) * scale < 0.3:
                    continue
                inside = max(begin, first) - first, min(end, last) - first
                title = f"{trace.names[name]}: {(end - begin) / _MS:.3g} ms"
                boxes.append(_box(trace.names[name], *inside, y, scale, title))
            lanes.append(Lane(_lane_name(trace, track), y, tuple(boxes)))
    names = in_order(box.name for lane in lanes for box in lane.boxes)
    return Timeline(tuple(lanes), _ticks((last - first) / _MS, "ms"), tuple(names), len(lanes) * (_HEIGHT + 6))


def _usual_steps(traces: Sequence[RankTrace]) -> tuple[int, int] | None:
    """Return begin and end of steps of median length, those of rank 0."""
    if not traces:
        return None
    steps = traces[0].named("step")
    lengths = steps["end"] - steps["begin"]
    if steps.size < 4 or not lengths.max() > 0:
        return None
    count = 3 if traces[0].stride == 1 else 1
    sums = np.convolve(lengths, np.ones(count), "valid")
    together = steps["step"][count - 1 :] - steps["step"][: steps.size - count + 1] < traces[0].stride * count
    together &= (
        steps["end"][count - 1 :] - steps["begin"][: steps.size - count + 1] < 1.5 * sums
    )  # no epoch's end between
    usual = np.median(sums[together]) if together.any() else np.median(sums)
    place = int(np.argmin(np.where(together | ~together.any(), np.abs(sums - usual), np.inf)))
    return int(steps["begin"][place]), int(steps["end"][place + count - 1])


def _areas(trace: RankTrace, track: int, scale: float, y: float) -> tuple[Area, ...]:
    """Pile up each phase's share of each slice, from the bottom of the lane."""
    spans = trace.spans[trace.spans["track"] == track]
    shares = {name: _share_of_slices(spans[spans["name"] == i], scale) for i, name in enumerate(trace.names)}
    shares = {name: share for name, share in shares.items() if share.any() and name != "step"}
    if trace.stride > 1:
        shares = _standing_for_others(trace, track, shares, scale)
    over = np.maximum(sum(shares.values(), np.zeros(_SLICES)), 1.0)  # what encloses others counts twice
    floor = np.zeros(_SLICES)
    areas = []
    for name in in_order(shares):
        top = floor + shares[name] / over
        areas.append(Area(name, _path(floor, top, y)))
        floor = top
    return tuple(areas)


def _standing_for_others(trace: RankTrace, track: int, shares: dict[str, Shares], scale: float) -> dict[str, Shares]:
    """Let each step that was kept fill the time up to the next, but for what is rare, all of which was kept."""
    rare = {name: share for name, share in shares.items() if name in RARE}
    steps = trace.named("step")
    if not steps.size:
        return rare
    middles = (np.arange(_SLICES) + 0.5) * (_WIDTH / _SLICES / scale)
    last = steps["end"][-1] + (trace.stride - 1) * (steps["end"][-1] - steps["begin"][-1])
    room = np.clip(1.0 - sum(rare.values(), np.zeros(_SLICES)), 0.0, 1.0)
    room[(middles < steps["begin"][0]) | (middles > last)] = 0.0
    step_of = np.clip(np.searchsorted(steps["begin"], middles, "right") - 1, 0, None)
    for name in shares.keys() - rare.keys():
        own = trace.spans[(trace.spans["track"] == track) & (trace.spans["name"] == trace.names.index(name))]
        own = own[np.isin(own["step"], steps["step"])]
        lengths = np.bincount(
            np.searchsorted(steps["step"], own["step"]), (own["end"] - own["begin"]).astype(np.float64), steps.size
        )
        rare[name] = (lengths / np.maximum(steps["end"] - steps["begin"], 1))[step_of] * room
    return rare


def _share_of_slices(spans: NDArray[np.void], scale: float) -> Shares:
    """Return what share of each slice the spans cover, `[slices] float64`."""
    width = _WIDTH / _SLICES / scale
    # The integral of what is covered, at the borders of slices: spans of one phase do not overlap.
    borders = np.arange(_SLICES + 1) * width
    begin, end = spans["begin"].astype(np.float64), spans["end"].astype(np.float64)
    points = np.stack([begin, end], 1).reshape(-1)
    sums = np.stack([np.zeros_like(begin), end - begin], 1).reshape(-1).cumsum()
    covered = np.interp(borders, points, sums, left=0.0) if points.size else np.zeros(_SLICES + 1)
    return np.diff(covered) / width


def _path(floor: Shares, top: Shares, y: float) -> str:
    width = _WIDTH / _SLICES
    parts = []
    i = 0
    while i < _SLICES:
        if top[i] - floor[i] < 0.01:
            i += 1
            continue
        j = i
        while j + 1 < _SLICES and abs(top[j + 1] - top[i]) < 0.02 and abs(floor[j + 1] - floor[i]) < 0.02:
            j += 1
        x, upper, lower = i * width, y + _HEIGHT * (1 - top[i]), y + _HEIGHT * (1 - floor[i])
        parts.append(f"M{x:.4g} {upper:.4g}H{(j + 1) * width:.4g}V{lower:.4g}H{x:.4g}Z")
        i = j + 1
    return "".join(parts)


def _box(name: str, begin: float, end: float, y: float, scale: float, title: str) -> Box:
    x, width = begin * scale, max((end - begin) * scale, 0.3)
    label = name.replace("_", " ")
    return Box(name, round(x, 2), y, round(width, 2), _HEIGHT, title, label if width > 7 * len(label) + 6 else "")


def _lane_name(trace: RankTrace, track: int) -> str:
    return f"rank {trace.rank}" if track == 0 else "exchange under way"


def _ticks(length: float, unit: str) -> tuple[tuple[float, str], ...]:
    raw = length / 6
    power = 10.0 ** np.floor(np.log10(raw))
    step = next(power * each for each in (1, 2, 5, 10) if power * each >= raw)
    values = np.arange(0, length * 1.0001, step)
    return tuple((round(float(value / length * _WIDTH), 2), f"{value:.6g} {unit}") for value in values)
