"""Tables of what was run: what each arm's rate is, what it came to, and how that compares with dense."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from experiment import TUNING_SEED
from runs import Outcome, Run, Setting
from traffic import ring_bytes

__all__ = ["Row", "Table", "tables"]

_HEADING = (
    "| arm | loss | each seed | rate | sent | wire | over dense | within two s |\n|---|---|---|---|---|---|---|---|"
)


class Row(NamedTuple):
    """An arm at the rate that was chosen for it.

    Parameters
    ----------
    name : str
        Of the arm; with its definition where a name stands for several.
    rate, num_rates : float, int
        What was chosen, among how many.
    is_edge : bool
        Whether it was the lowest or the highest of them.
    outcomes : dict
        By seed.
    sent, wire : float
        Dense bytes by those of this arm, each as its own kind; 0 if it diverged.
    """

    name: str
    rate: float
    num_rates: int
    is_edge: bool
    outcomes: dict[int, Outcome]
    sent: float
    wire: float

    @property
    def losses(self) -> list[float]:
        """At the end, by seed."""
        return [outcome.loss for _, outcome in sorted(self.outcomes.items())]

    @property
    def loss(self) -> float:
        """Mean over the seeds."""
        return statistics.mean(self.losses)


class Table(NamedTuple):
    """A setting; its rows, dense first; and arms of which no seed that counts has been run."""

    setting: Setting
    rows: list[Row]
    unfinished: list[str]

    @property
    def dense(self) -> Row | None:
        """What all are compared with."""
        return next((row for row in self.rows if row.name == "dense"), None)

    @property
    def spread(self) -> float | None:
        """Two standard deviations of the dense seeds; None with less than two."""
        if self.dense is None or len(self.dense.losses) < 2:
            return None
        return 2 * statistics.stdev(self.dense.losses)

    def __str__(self) -> str:
        setting = self.setting
        libraries = ", ".join(f"{name} {version}" for name, version in setting.libraries.items())
        lines = [f"**{setting.title}** (data {setting.data[:12]}; {libraries})", "", _HEADING]
        lines += [self._line(row) for row in self.rows]
        if self.spread is not None:
            lines += ["", f"Two standard deviations of the dense seeds: {self.spread:.4f}."]
        if self.unfinished:
            lines += ["", f"Rates tried, no seed that counts yet: {', '.join(self.unfinished)}."]
        return "\n".join(lines)

    def _line(self, row: Row) -> str:
        each = ", ".join(f"{loss:.3f}" for loss in row.losses)
        over, within = "", ""
        if self.dense is not None and row is not self.dense:
            difference = row.loss - self.dense.loss
            over = f"{difference:+.4f}"
            within = "" if self.spread is None else "yes" if difference < self.spread else "no"
        fewer = ("diverges", "") if row.wire == 0 else (_fewer(row.sent), _fewer(row.wire))
        rate = f"{row.rate:g}{' (edge)' if row.is_edge else ''}"
        return f"| {row.name} | {row.loss:.4f} | {each} | {rate} | {fewer[0]} | {fewer[1]} | {over} | {within} |"


def tables(records: Iterable[tuple[Run, Outcome]]) -> Iterator[Table]:
    """Make a table a setting."""
    settings: dict[str, Setting] = {}
    arms: dict[str, dict[str, list[tuple[Run, Outcome]]]] = defaultdict(lambda: defaultdict(list))
    for run, outcome in records:
        settings[run.setting.key] = run.setting
        arms[run.setting.key][run.definition].append((run, outcome))
    for key, setting in sorted(settings.items(), key=lambda pair: pair[1].title):
        names = [found[0][0].arm for found in arms[key].values()]
        rows, unfinished = [], []
        for definition, found in arms[key].items():
            name = found[0][0].arm
            row = _row(name if names.count(name) == 1 else f"{name}: {definition}", setting, found)
            if row.outcomes:
                rows.append(row)
            else:
                unfinished.append(row.name)
        rows.sort(key=lambda row: (row.name != "dense", row.wire))
        yield Table(setting, rows, unfinished)


def _row(name: str, setting: Setting, found: list[tuple[Run, Outcome]]) -> Row:
    rate, rates = _chosen_rate(found)
    outcomes = {run.seed: outcome for run, outcome in found if run.rate == rate and run.seed < TUNING_SEED}
    sent = wire = 0.0
    if outcomes and all(outcome.points for outcome in outcomes.values()):
        sent = setting.dense_bytes / statistics.mean(each.points[-1].sent for each in outcomes.values())
        dense_wire = ring_bytes(setting.dense_bytes, setting.ranks)
        wire = dense_wire / statistics.mean(each.points[-1].wire for each in outcomes.values())
    return Row(name, rate, len(rates), len(rates) > 1 and rate in (min(rates), max(rates)), outcomes, sent, wire)


def _chosen_rate(found: list[tuple[Run, Outcome]]) -> tuple[float, list[float]]:
    """Return the best rate on the seeds that are for choosing one, and all that were tried; without such, on all."""
    by_rate: dict[float, list[float]] = defaultdict(list)
    for run, outcome in found:
        if run.seed >= TUNING_SEED:
            by_rate[run.rate].append(outcome.loss)
    for run, outcome in found if not by_rate else ():
        by_rate[run.rate].append(outcome.loss)
    most = max(len(losses) for losses in by_rate.values())  # some may still be under way
    means = {rate: statistics.mean(losses) for rate, losses in by_rate.items() if len(losses) == most}
    return min(sorted(means), key=means.__getitem__), sorted(by_rate)


def _fewer(ratio: float) -> str:
    return f"1/{ratio:,.1f}" if ratio < 100 else f"1/{ratio:,.0f}"
