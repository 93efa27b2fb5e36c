"""Tables of what was run: what each arm's rate is, what it came to, and how that compares with dense."""

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from experiment import TUNING_SEED
from runs import Outcome, Run, Setting
from traffic import ring_bytes

__all__ = ["Row", "Table", "tables"]

_COLUMNS = ("arm", "loss", "each seed", "rate", "sent", "wire", "over dense", "common seeds", "within two s")
_MIN_SEEDS = 3  # of dense: with fewer, their deviation says too little to judge by


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

    @property
    def codes(self) -> list[str]:
        """The code that made the outcomes, each revision once."""
        return sorted({outcome.code or "unknown" for outcome in self.outcomes.values()})

    def over(self, other: "Row") -> tuple[float | None, int]:
        """Return the mean of how far the loss is above another's, over the seeds that both have; and how many.

        There is no mean without such a seed, or where the other diverged in one.
        """
        common = [seed for seed in self.outcomes if seed in other.outcomes]
        if not common or not all(other.outcomes[seed].points for seed in common):
            return None, len(common)
        return statistics.mean(self.outcomes[seed].loss - other.outcomes[seed].loss for seed in common), len(common)


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
        """Two standard deviations of the dense seeds; None with less than two, or if one diverged."""
        if self.dense is None or len(self.dense.losses) < 2 or not all(map(math.isfinite, self.dense.losses)):
            return None
        return 2 * statistics.stdev(self.dense.losses)

    @property
    def mixture(self) -> str | None:
        """Say which rows were made by another code than most; None if all were made by one."""
        count = Counter(code for row in self.rows for code in row.codes)
        if len(count) < 2:
            return None
        usual = count.most_common(1)[0][0]
        others = [f"{row.name} ({'; '.join(row.codes)})" for row in self.rows if row.codes != [usual]]
        return f"Results of several revisions of the code. Most rows: {usual}; of another one: {', '.join(others)}."

    def __str__(self) -> str:
        setting = self.setting
        libraries = ", ".join(f"{name} {version}" for name, version in setting.libraries.items())
        lines = [f"**{setting.title}** (data {setting.data[:12]}; {libraries})", ""]
        lines += [_cells(_COLUMNS), "|---" * len(_COLUMNS) + "|"]
        lines += [self._line(row) for row in self.rows]
        if self.spread is not None:
            lines += ["", f"Two standard deviations of the dense seeds: {self.spread:.4f}."]
        if self.mixture is not None:
            lines += ["", self.mixture]
        if self.unfinished:
            lines += ["", f"Rates tried, no seed that counts yet: {', '.join(self.unfinished)}."]
        return "\n".join(lines)

    def _line(self, row: Row) -> str:
        each = ", ".join(f"{loss:.3f}" for loss in row.losses)
        over, common, within = "", "", ""
        if self.dense is not None and row is not self.dense:
            difference, seeds = row.over(self.dense)
            common = str(seeds)
            over = "" if difference is None else f"{difference:+.4f}"
            if difference is not None and self.spread is not None and len(self.dense.losses) >= _MIN_SEEDS:
                within = "yes" if difference < self.spread else "no"
        fewer = ("diverges", "") if row.wire == 0 else (_fewer(row.sent), _fewer(row.wire))
        rate = f"{row.rate:g}{' (edge)' if row.is_edge else ''}"
        return _cells((row.name, f"{row.loss:.4f}", each, rate, *fewer, over, common, within))


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


def _cells(texts: Iterable[str]) -> str:
    return f"| {' | '.join(texts)} |"


def _fewer(ratio: float) -> str:
    return f"1/{ratio:,.1f}" if ratio < 100 else f"1/{ratio:,.0f}"
