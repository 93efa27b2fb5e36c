"""Sentences about where the time of a run went: only such as its figures bear out."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterator, Sequence

import numpy as np

from hvdspark.stats.phases import OWN_WORK
from hvdspark.stats.spans import DriverSpan, RankTrace

__all__ = ["MeanStep", "diagnose", "mean_steps"]

_FEW_STEPS = 10  # below: a mean says little
_NOTEWORTHY, _MUCH = 0.2, 0.4  # shares of a step
_SLOWER = 1.25  # times the median of the other ranks
_LONG_FIRST_STEP = 10.0  # times the mean step
_TOGETHER = ("exchange", "wait", "sum inside")


@dataclasses.dataclass(frozen=True)
class MeanStep:
    """The mean of a rank's recorded steps, without the first, in which much is made ready.

    Parameters
    ----------
    rank, host
        Whose.
    count : int
        Of how many steps it is the mean.
    seconds : float
        Of a whole step.
    phases : dict
        Seconds of a step by phase, on the thread that trains.
    own_s, own_error_s : float
        Seconds that the rank works by itself, and the standard error of that mean.
    """

    rank: int
    host: str
    count: int
    seconds: float
    phases: dict[str, float]
    own_s: float
    own_error_s: float

    def share(self, *names: str) -> float:
        """Return what share of a step these phases take."""
        return sum(self.phases.get(name, 0.0) for name in names) / self.seconds


def mean_steps(traces: Sequence[RankTrace]) -> tuple[MeanStep, ...]:
    """Return the mean step of each rank that has more than one."""
    return tuple(found for trace in traces if (found := _mean_step(trace)) is not None)


def _mean_step(trace: RankTrace) -> MeanStep | None:
    steps = trace.named("step")
    steps = steps[steps["step"] > steps["step"].min(initial=np.iinfo(np.int64).max)]
    seconds = float((steps["end"] - steps["begin"]).sum()) / 1e9 / max(steps.size, 1)
    if seconds <= 0:
        return None
    spans = trace.spans[(trace.spans["track"] == 0) & np.isin(trace.spans["step"], steps["step"])]
    # What is left over at the end of an epoch has the number of the step to come, but is in none.
    begin_of = dict(zip(steps["step"].tolist(), steps["begin"].tolist(), strict=True))
    inside = np.array([begin >= begin_of[step] for step, begin in spans[["step", "begin"]].tolist()], bool)
    spans = spans[inside]
    places = np.searchsorted(steps["step"], spans["step"])
    lengths = (spans["end"] - spans["begin"]) / 1e9
    by_step = {  # [steps] float64 a phase
        name: np.bincount(places[own], lengths[own], steps.size)
        for index, name in enumerate(trace.names)
        if name != "step" and (own := spans["name"] == index).any()
    }
    own_work = sum((by_step[name] for name in OWN_WORK if name in by_step), np.zeros(steps.size))
    return MeanStep(
        rank=trace.rank,
        host=trace.host,
        count=steps.size,
        seconds=seconds,
        phases={name: float(values.mean()) for name, values in by_step.items()},
        own_s=float(own_work.mean()),
        own_error_s=float(own_work.std() / np.sqrt(steps.size)),
    )


def diagnose(traces: Sequence[RankTrace], driver: Sequence[DriverSpan] = ()) -> tuple[str, ...]:
    """Say what stands out; where there are too few steps, that."""
    steps = mean_steps(traces)
    if not steps or min(each.count for each in steps) < _FEW_STEPS:
        return (f"Too few steps to say where their time goes: {_FEW_STEPS} after the first are needed.",)
    found = [*_loading(steps), *_slow_rank(steps), *_exchange(steps), *_rare(traces, steps), *_starting(driver)]
    return tuple(found) or (_nothing(steps),)


def _loading(steps: Sequence[MeanStep]) -> Iterator[str]:
    waiting = [each for each in steps if each.share("load") >= _NOTEWORTHY]
    if not waiting:
        return
    worst = max(waiting, key=lambda each: each.share("load"))
    others = f" ({len(waiting)} of {len(steps)} ranks wait for more than {_NOTEWORTHY:.0%})" if len(steps) > 1 else ""
    yield (
        f"Rank {worst.rank} on {worst.host} waits {worst.share('load'):.0%} of a step for data{others}: read further "
        "ahead (worker_prefetch_num_batches), or have the data nearer."
    )


def _slow_rank(steps: Sequence[MeanStep]) -> Iterator[str]:
    if len(steps) < 2:
        return
    slowest = max(steps, key=lambda each: each.own_s)
    others = [each for each in steps if each is not slowest]
    usual = statistics.median(each.own_s for each in others)
    least = max(0.1 * slowest.seconds, 3 * np.hypot(slowest.own_error_s, max(each.own_error_s for each in others)))
    if usual <= 0 or slowest.own_s < _SLOWER * usual or slowest.own_s - usual < least:
        return
    more = {
        name: slowest.phases.get(name, 0.0) - statistics.median(each.phases.get(name, 0.0) for each in others)
        for name in OWN_WORK
    }
    where = _told(max(more, key=more.__getitem__))
    yield (
        f"Rank {slowest.rank} on {slowest.host} is the slowest: its own work takes {slowest.own_s * 1e3:.3g} ms a "
        f"step, {slowest.own_s / usual:.2g} x the median of the others, most of the difference in {where}. "
        "The others wait for it in their exchange."
    )


def _exchange(steps: Sequence[MeanStep]) -> Iterator[str]:
    """Look at the rank that spends least in it: it hardly waits for the others, as they do for it."""
    if len(steps) < 2:
        return
    least = min(steps, key=lambda each: each.share(*_TOGETHER))
    most = max(steps, key=lambda each: each.share(*_TOGETHER))
    low, high = least.share(*_TOGETHER), most.share(*_TOGETHER)
    if low >= _MUCH:
        yield (
            f"Exchanges take {low:.0%} of a step even on the rank that waits least in them ({least.rank}): larger "
            "batches, local_steps, overlap='next_step' or a sparser code would help."
        )
    elif high >= _MUCH:
        yield (
            f"Exchanges take {high:.0%} of a step on rank {most.rank} and {low:.0%} on rank {least.rank}: most of that "
            "is waiting for one another, not the messages."
        )


def _rare(traces: Sequence[RankTrace], steps: Sequence[MeanStep]) -> Iterator[str]:
    for name, advice in (
        ("checkpoint", "take them less often"),
        ("validate", "validate on fewer rows"),
        ("garbage", "collect less often (worker_periodic_gc_frequency_ms)"),
    ):
        trace = max(traces, key=lambda each: each.seconds(name))
        everything = _extent_s(trace)
        if trace.seconds(name) >= _NOTEWORTHY * everything > 0:
            share = trace.seconds(name) / everything
            yield f"{_told(name).capitalize()} takes {share:.0%} of the time of rank {trace.rank}: {advice}."
    for trace, step in zip((t for t in traces if t.rank in {s.rank for s in steps}), steps, strict=True):
        first = trace.named("step")[:1]
        seconds = float((first["end"] - first["begin"]).sum()) / 1e9
        if seconds > _LONG_FIRST_STEP * step.seconds and seconds > _NOTEWORTHY * _extent_s(trace):
            yield (
                f"The first step took {seconds:.3g} s on rank {trace.rank}, as long as "
                f"{seconds / step.seconds:,.0f} later ones: code was compiled or caches were filled. "
                "A longer run pays it once."
            )
            return


def _starting(driver: Sequence[DriverSpan]) -> Iterator[str]:
    total = sum(each.end_s - each.begin_s for each in driver)
    for name, what in (
        ("staging", "Staging the data"),
        ("launch", "Starting the ranks"),
        ("lost attempt", "Lost attempts"),
    ):
        seconds = sum(each.end_s - each.begin_s for each in driver if each.name == name)
        if total > 0 and seconds >= _MUCH * total:
            yield f"{what} took {seconds:.3g} s, {seconds / total:.0%} of the whole fit."


def _nothing(steps: Sequence[MeanStep]) -> str:
    names = sorted({name for each in steps for name in each.phases})
    shares = {name: statistics.fmean(each.share(name) for each in steps) for name in names}
    name = max(shares, key=shares.__getitem__)
    return f"Nothing stands out: {_told(name)} takes the largest part of a step, {shares[name]:.0%}."


def _extent_s(trace: RankTrace) -> float:
    return float(trace.spans["end"].max() - trace.spans["begin"].min()) / 1e9 if trace.spans.size else 0.0


def _told(name: str) -> str:
    return name.replace("_", " ")
